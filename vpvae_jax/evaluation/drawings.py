"""Curves of training and use of codes, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np

from vpvae_jax.scoring.base import label

_LOGARITHMIC = ("l1", "lpips", "stft", "gradient_norm")
_CURVES = {
    "l1": "mean absolute error",
    "lpips": "LPIPS",
    "stft": "multi-scale STFT distance",
    "whisper": "distance of Whisper's features",
    "batch_usage": "CVU of a training batch",
    "quantizer_loss": "quantizer loss",
    "acceptance_rate": "acceptance rate",
    "move_length": "mean move of a latent",
    "gradient_norm": "gradient norm",
    "examples_per_second": "examples / s",
}


def draw_curves(metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> matplotlib.figure.Figure:
    """A panel a figure of training, a line a run.

    Args:
        metrics: lines of the training's log by run.
    """
    keys = [key for key in _CURVES if any(key in line for lines in metrics.values() for line in lines)]
    num_rows = max(1, -(-len(keys) // 2))
    figure = matplotlib.figure.Figure(figsize=(11, 2.6 * num_rows), layout="constrained")
    for number, key in enumerate(keys, start=1):
        axes = figure.add_subplot(num_rows, 2, number)
        for name, lines in metrics.items():
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1, label=label(name))
        axes.set(title=_CURVES[key], xlabel="step", yscale="log" if key in _LOGARITHMIC else "linear")
        axes.grid(alpha=0.3)
        if len(metrics) > 1:
            axes.legend(fontsize=8)
    return figure


def draw_code_usage(usage: Sequence[tuple[str, np.ndarray, float]]) -> matplotlib.figure.Figure:
    """Share of the tokens of each code, a panel an evaluation.

    Args:
        usage: title, `(codebook_size,)` uses of each code and CVU of each panel.
    """
    figure = matplotlib.figure.Figure(figsize=(9, 3.2 * len(usage)), layout="constrained")
    for axes, (title, counts, cvu) in zip(figure.subplots(len(usage), squeeze=False)[:, 0], usage, strict=True):
        shares = np.sort(counts)[::-1] / counts.sum()
        axes.stairs(shares, fill=True)  # a bar a code takes half a minute for 16,384
        axes.axhline(1 / len(shares), color="black", linewidth=0.8, linestyle="--", label="all codes alike")
        axes.set(
            title=f"{label(title)}: CVU {cvu:.3f}, {np.count_nonzero(counts)} of {len(counts)} codes used",
            xlabel="code, most used first",
            ylabel="share of tokens",
        )
        axes.legend()
    return figure
