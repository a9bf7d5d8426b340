"""Charts of the benchmarks, from the lines that they left in results/benchmarks.

python -m benchmarks.charts [--directory results/benchmarks]
python -m benchmarks.charts --smoke    draws into a temporary directory
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import matplotlib.pyplot as plt

from benchmarks import smoke

OURS, PEER, THIRD = "#1b6ca8", "#b0b0b0", "#d9a441"
DIRECTORY = pathlib.Path(__file__).parent.parent / "results" / "benchmarks"
_WIDTH = 0.38  # of a bar


def main(argv: Sequence[str] | None = None) -> int:
    parser = smoke.Parser(__doc__)
    parser.add_argument("--directory", type=pathlib.Path, default=DIRECTORY, help="of the lines, and of the charts")
    given = parser.parse_args(argv)
    plt.switch_backend("Agg")  # needs no display
    with contextlib.ExitStack() as stack:
        target = given.directory
        if given.smoke:
            target = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, draw in (("perturb", draw_perturb), ("kmeans", draw_kmeans), ("train_step", draw_train_step)):
            path = given.directory / f"{name}.jsonl"
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            figure = draw(lines)
            machine, date = lines[-1]["machine"], lines[-1]["date"]
            figure.suptitle(f"{machine}, {date}", fontsize=8, color="#606060")
            figure.tight_layout()
            figure.savefig(target / f"{name}.png", dpi=110)
            plt.close(figure)
            print(target / f"{name}.png")
    return 0


def draw_perturb(lines: list[dict]) -> plt.Figure:
    """Draw latents per second by setting, beside the peers that were there; microseconds by size of the memory."""
    figure, (by_setting, curve) = plt.subplots(1, 2, figsize=(13, 4), width_ratios=(3, 2))
    settings = [line for line in lines if "latents_per_second" in line]
    peers = (
        ("scipy_latents_per_second", "ratio_to_scipy", "scipy cKDTree, built at each step", THIRD),
        ("peer_latents_per_second", "ratio", "PyTorch, distances and top-k", PEER),
    )
    series = {"ours": ([line["latents_per_second"] for line in settings], OURS)}
    ratios = []
    for key, ratio, label, color in peers:
        if all(key in line for line in settings):
            series[label] = [line[key] for line in settings], color
            ratios.append([line[ratio] for line in settings])
    _bars(by_setting, [f"K = {line['codebook_size']:,}\n|S| = {line['capacity']:,}" for line in settings], series)
    texts = [" and ".join(f"{ratio:.3g} x" for ratio in of_setting) for of_setting in zip(*ratios, strict=True)]
    _write(by_setting, texts, [line["latents_per_second"] for line in settings])
    by_setting.set(yscale="log", ylabel="latents per second", title="one Metropolis-Hastings step")
    for line, color in zip((line for line in lines if "microseconds_by_capacity" in line), (OURS, THIRD), strict=True):
        points = {int(capacity): value for capacity, value in line["microseconds_by_capacity"].items()}
        curve.plot(points.keys(), points.values(), marker="o", color=color, label=f"d = {line['dim']}")
    curve.set(xscale="log", yscale="log", xlabel="latents in the memory", ylabel="microseconds a latent")
    curve.set_title("time by size of the memory")
    curve.legend(frameon=False)
    return figure


def draw_kmeans(lines: list[dict]) -> plt.Figure:
    """Draw seconds of a fit, and latents assigned per second."""
    figure, (fit, assign) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(1, 2))
    (small,) = (line for line in lines if "peer_seconds" in line)
    _bars(
        fit,
        [f"K = {small['codebook_size']:,}\n{small['num_points']:,} points"],
        {"ours": ([small["seconds"]], OURS), "scikit-learn": ([small["peer_seconds"]], PEER)},
    )
    fit.set(ylabel="seconds", title="fitting a codebook")
    _write(fit, [f"{small['ratio']:.3g} x"], [small["seconds"]])
    assigned = [line for line in lines if "scipy_latents_per_second" in line]
    _bars(
        assign,
        [f"K = {line['codebook_size']:,}\nd = {line['dim']}" for line in assigned],
        {
            "ours": ([line["latents_per_second"] for line in assigned], OURS),
            "scipy cKDTree": ([line["scipy_latents_per_second"] for line in assigned], THIRD),
            "PyTorch, distances and argmin": ([line["peer_latents_per_second"] for line in assigned], PEER),
        },
    )
    assign.set(yscale="log", ylabel="latents per second", title="assigning tokens")
    return figure


def draw_train_step(lines: list[dict]) -> plt.Figure:
    """Draw seconds a step against PyTorch, and by quantizer."""
    figure, (peer, quantizers) = plt.subplots(1, 2, figsize=(10, 4))
    (step,) = (line for line in lines if "ratio_of_seconds" in line)
    (by_quantizer,) = (line for line in lines if "ratio_of_seconds_to_fsp" in line)
    peer.bar(["ours", "PyTorch"], [1000 * step["seconds"], 1000 * step["peer_seconds"]], color=[OURS, PEER])
    peer.set(ylabel="milliseconds a step", title="the same autoencoder, no quantizer")
    seconds = by_quantizer["seconds"]
    quantizers.bar(seconds.keys(), [1000 * value for value in seconds.values()], color=OURS)
    quantizers.set(ylabel="milliseconds a step", title=f"by quantizer, K = {by_quantizer['codebook_size']:,}")
    return figure


def _bars(axes: plt.Axes, labels: list[str], series: dict[str, tuple[list[float], str]]) -> None:
    width = 2 * _WIDTH / len(series)
    for number, (name, (values, color)) in enumerate(series.items()):
        places = [place + width * (number - (len(series) - 1) / 2) for place in range(len(values))]
        axes.bar(places, values, width=width, color=color, label=name)
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.legend(frameon=False, fontsize=8)
    axes.margins(y=0.2)


def _write(axes: plt.Axes, texts: list[str], heights: list[float]) -> None:
    for place, (text, height) in enumerate(zip(texts, heights, strict=True)):
        axes.annotate(text, (place, height), ha="center", va="bottom", fontsize=8, fontweight="bold")


if __name__ == "__main__":
    sys.exit(main())
