"""Charts of training and of the use of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.figure
import matplotlib.ticker
import numpy as np

from vpvae_jax.modality import label
from vpvae_jax.reporting.collection import Line
from vpvae_jax.reporting.tables import with_equal_use

_LOGARITHMIC = ("l1", "lpips", "stft", "gradient_norm")
_CURVES = {
    "l1": "mean absolute error",
    "lpips": "LPIPS",
    "stft": "multi-scale STFT distance",
    "whisper": "distance of Whisper's features",
    "eval_psnr_db": "PSNR dB of the examples that are watched",
    "eval_psnr_db_continuous": "the same without quantization",
    "eval_stoi": "STOI of the examples that are watched",
    "eval_stoi_continuous": "the same without quantization",
    "eval_cvu": "CVU of the examples that are watched",
    "batch_usage": "CVU of a training batch",
    "quantizer_loss": "quantizer loss",
    "acceptance_rate": "acceptance rate",
    "move_length": "mean move of a latent",
    "gradient_norm": "gradient norm",
    "examples_per_second": "examples / s",
}


def draw_curves(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> matplotlib.figure.Figure:
    """A panel for each metric of training, a curve for each run.

    Args:
        logs: lines of metrics.jsonl, by run.
    """
    keys = [key for key in _CURVES if any(key in line for lines in logs.values() for line in lines)]
    num_rows = max(1, -(-len(keys) // 2))
    chart = matplotlib.figure.Figure(figsize=(11, 2.6 * num_rows), layout="constrained")
    for number, key in enumerate(keys, start=1):
        axes = chart.add_subplot(num_rows, 2, number)
        for name, lines in logs.items():
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1, label=label(name))
        axes.set(title=_CURVES[key], xlabel="step", yscale="log" if key in _LOGARITHMIC else "linear")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if len(logs) > 1:
            axes.legend(fontsize=8)
    return chart


def draw_code_usage(titled: Mapping[str, Line]) -> matplotlib.figure.Figure:
    """The share of the tokens that each code has, a panel for each evaluation.

    Args:
        titled: at least one evaluation, by the title of its panel.
    """
    chart = matplotlib.figure.Figure(figsize=(9, 3.2 * len(titled)), layout="constrained")
    for axes, (title, line) in zip(chart.subplots(len(titled), squeeze=False)[:, 0], titled.items(), strict=True):
        evaluation = line.run.evaluations[line.name]
        shares = np.sort(evaluation.counts)[::-1] / evaluation.counts.sum()
        axes.stairs(shares, fill=True)  # a bar for each code takes half a minute for 16,384
        axes.axhline(1 / len(shares), color="black", linewidth=0.8, linestyle="--", label="all codes alike")
        usage = with_equal_use(f"CVU {evaluation.results['cvu']:.3f}", line.cvu_ceiling)
        used = f"{np.count_nonzero(evaluation.counts)} of {len(evaluation.counts)} codes used"
        axes.set(
            title=f"{label(title)}\n{usage} with {line.counts['num_tokens']} tokens, {used}",
            xlabel="code, most used first",
            ylabel="share of tokens",
        )
        axes.legend()
    return chart
