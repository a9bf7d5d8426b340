"""Pictures and a table of a work directory, from the files that training and evaluation left there."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

import matplotlib.figure
import numpy as np

from vpvae_jax import workdir as layout
from vpvae_jax.errors import CheckpointError
from vpvae_jax.training.metric_log import read_metrics

RECONSTRUCTIONS, CURVES, CODE_USAGE = "reconstructions.png", "curves.png", "code_usage.png"

_ROWS = ("original", "continuous", "quantized")
_CURVES = {
    "l1": "mean absolute error",
    "quantizer_loss": "quantizer loss",
    "acceptance_rate": "acceptance rate",
    "move_length": "mean move of a latent",
    "gradient_norm": "gradient norm",
    "examples_per_second": "examples / s",
}


def write_report(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Draw reconstructions, curves and code usage of a work directory.

    Returns:
        The paths of the pictures.

    Raises:
        CheckpointError: nothing was evaluated yet.
    """
    results = read_results(workdir)
    if not results:
        raise CheckpointError(f"{workdir / layout.EVAL} holds no evaluation: evaluate first (--mode=evaluate)")
    figures = {
        RECONSTRUCTIONS: _draw_reconstructions(workdir, results),
        CURVES: _draw_curves(workdir),
        CODE_USAGE: _draw_code_usage(workdir, results),
    }
    for name, figure in figures.items():
        figure.savefig(workdir / name, dpi=110)
    return [workdir / name for name in figures]


def read_results(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Evaluations by name (`photos-test`), as `evaluate` wrote them."""
    files = sorted((workdir / layout.EVAL).glob("*.json"))
    return {file.stem: layout.read_json(file) for file in files}


def table(results: dict[str, dict[str, Any]]) -> str:
    """The evaluations as lines of text, a row each."""
    columns = ("images", "PSNR dB", "continuous", "SSIM", "CVU", "codes used", "skipped")
    width = max(len(name) for name in results)
    lines = [" ".join([" " * width, *(f"{column:>11}" for column in columns)])]
    for name, values in results.items():
        cells = (
            f"{values['num_images']}",
            f"{values['psnr_db']:.2f}",
            f"{values['psnr_db_continuous']:.2f}",
            f"{values['ssim']:.3f}",
            f"{values['cvu']:.3f}",
            f"{values['num_codes_used']}/{values['codebook_size']}",
            f"{values['num_skipped']}",
        )
        lines.append(" ".join([f"{name:<{width}}", *(f"{cell:>11}" for cell in cells)]))
    return "\n".join(lines)


def _arrays(workdir: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    path = workdir / layout.EVAL / f"{name}.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}): evaluate again (--mode=evaluate)") from error


def _draw_reconstructions(workdir: pathlib.Path, results: dict[str, dict[str, Any]]) -> matplotlib.figure.Figure:
    columns = []
    for name in results:
        arrays = _arrays(workdir, name)
        for i in range(sum(key.startswith("original_") for key in arrays)):
            columns.append((f"{name}\n{results[name]['images'][i]['name']}", [arrays[f"{row}_{i}"] for row in _ROWS]))
    columns = columns or [("no pictures kept\n(eval.num_pictures=0)", [np.full((8, 8, 3), 255, np.uint8)] * len(_ROWS))]
    figure = matplotlib.figure.Figure(figsize=(2.4 * len(columns) + 0.6, 8.0), layout="constrained")
    axes = figure.subplots(len(_ROWS), len(columns), squeeze=False)
    for j, (title, images) in enumerate(columns):
        axes[0, j].set_title(title, fontsize=9)
        for i, image in enumerate(images):
            axes[i, j].imshow(image, interpolation="nearest")
            axes[i, j].set(xticks=[], yticks=[])
    for i, row in enumerate(_ROWS):
        axes[i, 0].set_ylabel(row, fontsize=12)
    return figure


def _draw_curves(workdir: pathlib.Path) -> matplotlib.figure.Figure:
    lines = read_metrics(workdir)
    shown = [key for key in _CURVES if any(key in line for line in lines)]
    figure = matplotlib.figure.Figure(figsize=(11, 2.6 * max(1, -(-len(shown) // 2))), layout="constrained")
    for number, key in enumerate(shown, start=1):
        axes = figure.add_subplot(-(-len(shown) // 2), 2, number)
        points = [(line["step"], line[key]) for line in lines if key in line]
        axes.plot(*zip(*points, strict=True), linewidth=1)
        axes.set(title=_CURVES[key], xlabel="step", yscale="log" if key == "l1" else "linear")
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
