"""Pictures, sounds and a table of a work directory, from the files that training and evaluation left there."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import matplotlib.figure
import numpy as np

from vpvae_jax import build
from vpvae_jax import workdir as layout
from vpvae_jax.errors import CheckpointError
from vpvae_jax.scoring.base import Figure, Shown
from vpvae_jax.training.metric_log import read_metrics

CURVES, CODE_USAGE = "curves.png", "code_usage.png"

_ROWS = ("original", "continuous", "quantized")
_LOGARITHMIC = ("l1", "lpips", "stft", "gradient_norm")
_CURVES = {
    "l1": "mean absolute error",
    "lpips": "LPIPS",
    "stft": "multi-scale STFT distance",
    "whisper": "distance of Whisper's features",
    "quantizer_loss": "quantizer loss",
    "acceptance_rate": "acceptance rate",
    "move_length": "mean move of a latent",
    "gradient_norm": "gradient norm",
    "examples_per_second": "examples / s",
}


def write_report(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Draw curves and code usage of a work directory and show what became of the examples that were kept.

    Returns:
        The paths written.

    Raises:
        CheckpointError: nothing was evaluated yet.
    """
    results = read_results(workdir)
    if not results:
        raise CheckpointError(f"{workdir / layout.EVAL} holds no evaluation: evaluate first (--mode=evaluate)")
    examples = _kept(workdir, results)
    paths = build.modality_of(layout.read_config(workdir)).show(workdir, examples) if examples else []
    for name, figure in {CURVES: _draw_curves(workdir), CODE_USAGE: _draw_code_usage(workdir, results)}.items():
        figure.savefig(workdir / name, dpi=110)
        paths.append(workdir / name)
    return paths


def read_results(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Evaluations by name (`photos-test`), as `evaluate` wrote them."""
    files = sorted((workdir / layout.EVAL).glob("*.json"))
    return {file.stem: layout.read_json(file) for file in files}


def table(results: dict[str, dict[str, Any]], figures: Mapping[str, Figure]) -> str:
    """The evaluations as lines of text, a row each, and what was not scored for want of a network's weights."""
    scored = {key: figure for key, figure in figures.items() if any(key in values for values in results.values())}
    heads = ("examples", *(figure.title for figure in scored.values()), "codes used", "skipped")
    rows = [
        (
            str(values["num_examples"]),
            *(_number(values.get(key), figure.decimals) for key, figure in scored.items()),
            f"{values['num_codes_used']}/{values['codebook_size']}",
            str(values["num_skipped"]),
        )
        for values in results.values()
    ]
    first = max(len(name) for name in results)
    widths = [max(len(cell) for cell in column) + 2 for column in zip(heads, *rows, strict=True)]
    lines = [
        f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in zip(("", *results), (heads, *rows), strict=True)
    ]
    lines += [
        f"without {figure.title}: it needs --config.{figure.needs}"
        for key, figure in figures.items()
        if key not in scored
    ]
    return "\n".join(lines)


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _arrays(workdir: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    path = workdir / layout.EVAL / f"{name}.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}): evaluate again (--mode=evaluate)") from error


def _kept(workdir: pathlib.Path, results: dict[str, dict[str, Any]]) -> list[Shown]:
    """The examples that the evaluations kept (`eval.num_pictures`)."""
    examples = []
    for evaluation, values in results.items():
        arrays = _arrays(workdir, evaluation)
        for i in range(sum(key.startswith("original_") for key in arrays)):
            rows = {row: arrays[f"{row}_{i}"] for row in _ROWS}
            examples.append(Shown(evaluation, values["examples"][i]["name"], rows))
    return examples


def _draw_curves(workdir: pathlib.Path) -> matplotlib.figure.Figure:
    lines = read_metrics(workdir)
    shown = [key for key in _CURVES if any(key in line for line in lines)]
    figure = matplotlib.figure.Figure(figsize=(11, 2.6 * max(1, -(-len(shown) // 2))), layout="constrained")
    for number, key in enumerate(shown, start=1):
        axes = figure.add_subplot(-(-len(shown) // 2), 2, number)
        points = [(line["step"], line[key]) for line in lines if key in line]
        axes.plot(*zip(*points, strict=True), linewidth=1)
        axes.set(title=_CURVES[key], xlabel="step", yscale="log" if key in _LOGARITHMIC else "linear")
        axes.grid(alpha=0.3)
    return figure


def _draw_code_usage(workdir: pathlib.Path, results: dict[str, dict[str, Any]]) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(9, 3.2 * len(results)), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(len(results), squeeze=False)[:, 0], results.items(), strict=True):
        counts = _arrays(workdir, name)["counts"]
        shares = np.sort(counts)[::-1] / counts.sum()
        axes.bar(np.arange(len(shares)), shares, width=1.0)
        axes.axhline(1 / len(shares), color="black", linewidth=0.8, linestyle="--", label="all codes alike")
        axes.set(
            title=f"{name}: CVU {values['cvu']:.3f}, {values['num_codes_used']} of {len(counts)} codes used",
            xlabel="code, most used first",
            ylabel="share of tokens",
        )
        axes.legend()
    return figure
