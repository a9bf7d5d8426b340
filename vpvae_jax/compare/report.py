"""Tables and plots of a comparison, from its CSV files."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import matplotlib.figure
import numpy as np

from vpvae_jax.compare import records
from vpvae_jax.compare.output_distribution import draw_output_distribution
from vpvae_jax.modality import CVU, Metric, Modality, columns
from vpvae_jax.reporting import tables
from vpvae_jax.runtime.files import write_text

TABLE = "table.md"
_LINE_STYLES = ("-", "--", ":")
_REFIT_STYLES = ("--.", ":.")  # by the codebook size of the training
_DPI = 110
Row = dict[str, Any]


def write_report(
    directory: pathlib.Path, *, modality: Modality, methods: list[str], ablations: list[str], curve_split: str
) -> list[pathlib.Path]:
    """Write `table.md` and the plots beside the CSV files.

    Args:
        directory: of the CSV files.
        modality: of the runs.
        methods: in the order in which tables show them.
        ablations: variants of methods, which get a table of their own.
        curve_split: split of curves and refits.

    Returns:
        The paths written.
    """
    runs, curves, refits = (records.read(directory, table) for table in records.TABLES)
    parts = [markdown_table(runs, methods, modality.metrics)]
    if any(row["method"] in ablations for row in runs):
        parts.append(markdown_table(runs, ablations, modality.metrics))
    write_text(directory / TABLE, "\n".join(parts))
    plots = {
        "over_training.png": _draw_over_training(curves, methods, curve_split, modality.metrics[0]),
        "rate_distortion.png": _draw_rate_distortion(runs, refits, methods, curve_split, modality),
        "output_distribution.png": draw_output_distribution(),
    }
    for name, plot in plots.items():
        plot.savefig(directory / name, dpi=_DPI)
    return [directory / name for name in (TABLE, *plots)]


def markdown_table(runs: list[Row], order: list[str], metrics: tuple[Metric, ...]) -> str:
    """Mean and standard deviation over seeds, a row for each method and codebook size.

    The deviation is that of a sample (n - 1); a single run has none. A metric leaves out the runs that it could not
    score.

    Args:
        runs: rows of runs.csv.
        order: the methods to show, in this order.
        metrics: of the modality.
    """
    suffix = f"_{metrics[0].key}"
    splits = [key.removesuffix(suffix) for key in (runs[0] if runs else {}) if key.endswith(suffix)]
    shown = {
        (split, key): metric
        for split in splits
        for key, metric in columns(metrics).items()
        if f"{split}_{key}" in runs[0]
    }
    heads = ["K", "method", "codes", "runs", *(_head(runs, split, metric) for (split, _), metric in shown.items())]
    rows = [
        [str(size), method, str(group[0]["num_codes"]), str(len(group))]
        + [_cell(group, split, key, metric) for (split, key), metric in shown.items()]
        for (size, method), group in _grouped(runs, ("codebook_size", "method"), order)
    ]
    return tables.markdown(heads, rows)


def _head(runs: list[Row], split: str, metric: Metric) -> str:
    """The title of a column; that of CVU names the number of tokens that it rests on."""
    numbers = {row.get(f"{split}_num_tokens") for row in runs}
    tokens = f", {numbers.pop()} tokens" if metric is CVU and len(numbers) == 1 and None not in numbers else ""
    return f"{split}: {metric.title}{tokens}"


def _cell(group: list[Row], split: str, key: str, metric: Metric) -> str:
    text = tables.mean_and_deviation((row[f"{split}_{key}"] for row in group), metric.decimals)
    ceiling = group[0].get(f"{split}_cvu_ceiling")
    return tables.with_equal_use(text, ceiling) if metric is CVU and ceiling is not None else text


def _mean(scores: list[float | None]) -> float:
    return float(np.mean(np.array(scores, float)))


def _grouped(rows: list[Row], keys: tuple[str, ...], order: list[str]) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Rows of the methods in `order` that share the values of keys, with these values."""

    def rank(row: Row) -> list[Any]:
        return [order.index(row[key]) if key == "method" else row[key] for key in keys]

    known = sorted((row for row in rows if row["method"] in order), key=rank)
    for _, group in itertools.groupby(known, key=rank):
        members = list(group)
        yield tuple(members[0][key] for key in keys), members


def _style(method: str, order: list[str]) -> dict[str, Any]:
    number = order.index(method)
    return {"color": f"C{number % 10}", "linestyle": _LINE_STYLES[number // 10 % len(_LINE_STYLES)]}


def _draw_over_training(curves: list[Row], order: list[str], split: str, metric: Metric) -> matplotlib.figure.Figure:
    """A column for each codebook size: CVU, a metric and its quantization loss, against the step."""
    sizes = sorted({row["codebook_size"] for row in curves if row["method"] in order})
    plot = matplotlib.figure.Figure(figsize=(1 + 5 * max(1, len(sizes)), 11), layout="constrained")
    axes = plot.subplots(3, max(1, len(sizes)), squeeze=False, sharex=True, sharey="row")
    for (size, method), group in _grouped(curves, ("codebook_size", "method"), order):
        column, points = sizes.index(size), sorted(group, key=lambda row: row["step"])
        steps = [row["step"] for row in points]
        cvu, quantized, continuous = (
            np.array([row[f"{split}_{key}"] for row in points], float)
            for key in (CVU.key, metric.key, f"{metric.key}_continuous")
        )
        for ax, values in zip(axes[:, column], (cvu, quantized, continuous - quantized), strict=True):
            ax.plot(steps, values, marker=".", label=method, **_style(method, order))
    for column, size in enumerate(sizes):
        axes[0, column].set(title=f"K = {size}", ylim=(0, 1), ylabel=f"CVU on {split}")
        axes[1, column].set(ylabel=f"{metric.title} on {split}")
        axes[2, column].set(xlabel="step", ylabel=f"quantization loss, {metric.title}")
        axes[0, column].legend(fontsize=8, ncols=2)
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    return plot


def _draw_rate_distortion(
    runs: list[Row], refits: list[Row], order: list[str], split: str, modality: Modality
) -> matplotlib.figure.Figure:
    """The first metric against the rate: trained for each K, and one training with several codebooks."""
    metric = modality.metrics[0]
    plot = matplotlib.figure.Figure(figsize=(9, 6), layout="constrained")
    axes = plot.subplots()
    for (method,), group in _grouped(runs, ("method",), order):
        rates, values = _over_rate(group, f"{split}_{metric.key}", modality)
        if len(rates) > 1:
            axes.plot(rates, values, marker="o", label=f"{method}, trained at each K", **_style(method, order))
    trained_at = sorted({row["codebook_size"] for row in refits})
    for (method, size), group in _grouped(refits, ("method", "codebook_size"), order):
        rates, values = _over_rate(group, f"{split}_{metric.key}", modality)
        style = _REFIT_STYLES[trained_at.index(size) % len(_REFIT_STYLES)]
        label = f"{method}, trained once at K = {size}"
        axes.plot(rates, values, style, label=label, color=_style(method, order)["color"])
    axes.set(xlabel=f"bits per {modality.rate_unit}", ylabel=f"{metric.title} on {split}")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
    return plot


def _over_rate(group: list[Row], key: str, modality: Modality) -> tuple[list[float], list[float]]:
    """Rates of the numbers of codes in a group of rows, and the mean of a column at each."""
    sizes = sorted({row["num_codes"] for row in group})
    means = [_mean([row[key] for row in group if row["num_codes"] == size]) for size in sizes]
    return [modality.rate(size) for size in sizes], means
