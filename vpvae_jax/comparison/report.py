"""Tables and figures of a comparison, from its CSV files."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.figure
import numpy as np

from vpvae_jax.comparison import records
from vpvae_jax.comparison.output_distribution import draw_output_distribution
from vpvae_jax.modalities import Modality
from vpvae_jax.scoring.base import Figure

_LINE_STYLES = ("-", "--", ":")
_REFIT_STYLES = ("--.", ":.")  # by the codebook size of the training
Row = dict[str, Any]


def write_report(
    directory: pathlib.Path,
    *,
    rate: Callable[[int], float],
    modality: Modality,
    methods: list[str],
    ablations: list[str],
    curve_split: str,
) -> list[pathlib.Path]:
    """Write `table.md` and the figures beside the CSV files.

    Args:
        directory: where the CSV files lie.
        rate: bits per `modality.rate_unit` by number of codes.
        modality: of the runs; says which figures there are.
        methods: in the order in which tables show them.
        ablations: variants of methods, which get a table of their own.
        curve_split: split of curves and refits.

    Returns:
        The paths written.
    """
    runs, curves, refits = (records.read(directory, table) for table in records.TABLES)
    tables = [markdown_table(runs, methods, modality.figures)]
    figures = {
        "over_training.png": _draw_over_training(curves, methods, curve_split, modality),
        "rate_distortion.png": _draw_rate_distortion(runs, refits, rate, methods, curve_split, modality),
        "output_distribution.png": draw_output_distribution(),
    }
    if any(row["method"] in ablations for row in runs):
        tables.append(markdown_table(runs, ablations, modality.figures))
    (directory / "table.md").write_text("\n".join(tables))
    for name, figure in figures.items():
        figure.savefig(directory / name, dpi=110)
    return [directory / name for name in ("table.md", *figures)]


def markdown_table(runs: list[Row], order: list[str], figures: Mapping[str, Figure]) -> str:
    """Mean and standard deviation over seeds, a row a method and codebook size.

    The deviation is that of a sample (n - 1); a single run has none. A run that a figure could not score is left out of
    the figure.
    """
    suffix = f"_{next(iter(figures))}"
    splits = [key.removesuffix(suffix) for key in (runs[0] if runs else {}) if key.endswith(suffix)]
    scored = {key: figure for key, figure in figures.items() if splits and f"{splits[0]}_{key}" in runs[0]}
    heads = [f"{split}: {figure.title}" for split in splits for figure in scored.values()]
    lines = ["| K | method | codes | runs | " + " | ".join(heads) + " |", "|" + "---|" * (4 + len(heads))]
    for (size, method), group in _grouped(runs, ("codebook_size", "method"), order):
        cells = [
            _mean_and_deviation([row[f"{split}_{key}"] for row in group], figure.decimals)
            for split in splits
            for key, figure in scored.items()
        ]
        lines.append(f"| {size} | {method} | {group[0]['num_codes']} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean_and_deviation(scores: list[float | None], decimals: int) -> str:
    values = [score for score in scores if score is not None]
    if not values:
        return "-"
    mean = f"{np.mean(values):.{decimals}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{decimals}f}"


def _mean(scores: list[float | None]) -> float:
    return float(np.mean(np.array(scores, float)))


def _grouped(rows: list[Row], keys: tuple[str, ...], order: list[str]):
    def rank(row):
        return [order.index(row[key]) if key == "method" else row[key] for key in keys]

    known = sorted((row for row in rows if row["method"] in order), key=rank)
    for _, group in itertools.groupby(known, key=rank):
        members = list(group)
        yield tuple(members[0][key] for key in keys), members


def _style(method: str, order: list[str]) -> dict[str, Any]:
    number = order.index(method)
    return {"color": f"C{number % 10}", "linestyle": _LINE_STYLES[number // 10 % len(_LINE_STYLES)]}


def _draw_over_training(
    curves: list[Row], order: list[str], split: str, modality: Modality
) -> matplotlib.figure.Figure:
    """A column a codebook size: CVU, the first figure and what quantization costs of it, against the step."""
    key, first = next(iter(modality.figures.items()))
    sizes = sorted({row["codebook_size"] for row in curves if row["method"] in order})
    figure = matplotlib.figure.Figure(figsize=(1 + 5 * max(1, len(sizes)), 11), layout="constrained")
    axes = figure.subplots(3, max(1, len(sizes)), squeeze=False, sharex=True, sharey="row")
    for (size, method), group in _grouped(curves, ("codebook_size", "method"), order):
        column, points = sizes.index(size), sorted(group, key=lambda row: row["step"])
        steps = [row["step"] for row in points]
        cvu, quality, continuous = (
            np.array([row[f"{split}_{figure}"] for row in points], float)
            for figure in ("cvu", key, f"{key}_continuous")
        )
        for ax, values in zip(axes[:, column], (cvu, quality, continuous - quality), strict=True):
            ax.plot(steps, values, marker=".", label=method, **_style(method, order))
    for column, size in enumerate(sizes):
        axes[0, column].set(title=f"K = {size}", ylim=(0, 1), ylabel=f"CVU on {split}")
        axes[1, column].set(ylabel=f"{first.title} on {split}")
        axes[2, column].set(xlabel="step", ylabel=f"{first.title} lost by quantization")
        axes[0, column].legend(fontsize=8, ncols=2)
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    return figure


def _draw_rate_distortion(
    runs: list[Row],
    refits: list[Row],
    rate: Callable[[int], float],
    order: list[str],
    split: str,
    modality: Modality,
) -> matplotlib.figure.Figure:
    """The first figure against the rate: trained for each K, and one training with several codebooks."""
    key, first = next(iter(modality.figures.items()))
    figure = matplotlib.figure.Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()

    for (method,), group in _grouped(runs, ("method",), order):
        sizes = sorted({row["num_codes"] for row in group})
        if len(sizes) < 2:
            continue
        values = [_mean([row[f"{split}_{key}"] for row in group if row["num_codes"] == size]) for size in sizes]
        label = f"{method}, trained at each K"
        axes.plot([rate(size) for size in sizes], values, marker="o", label=label, **_style(method, order))
    for (method, trained_at), group in _grouped(refits, ("method", "codebook_size"), order):
        sizes = sorted({row["num_codes"] for row in group})
        values = [_mean([row[f"{split}_{key}"] for row in group if row["num_codes"] == size]) for size in sizes]
        label = f"{method}, trained once at K = {trained_at}"
        style = _REFIT_STYLES[sorted({row["codebook_size"] for row in refits}).index(trained_at) % len(_REFIT_STYLES)]
        color = _style(method, order)["color"]
        axes.plot([rate(size) for size in sizes], values, style, label=label, color=color)
    axes.set(xlabel=f"bits per {modality.rate_unit}", ylabel=f"{first.title} on {split}")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
    return figure
