"""A chart of each benchmark, from the lines it left in results/benchmarks.

python -m benchmarks.charts [--directory results/benchmarks]
"""

from __future__ import annotations

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, PEER, THIRD = "#1b6ca8", "#b0b0b0", "#d9a441"
_WIDTH = 0.38  # of a bar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("results/benchmarks"))
    directory = parser.parse_args().directory
    for name, draw in (("perturb", draw_perturb), ("kmeans", draw_kmeans), ("train_step", draw_train_step)):
        path = directory / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        figure = draw(lines)
        machine, date = lines[-1]["machine"], lines[-1]["date"]
        figure.suptitle(f"{machine}, {date}", fontsize=8, color="#606060")
        figure.tight_layout()
        figure.savefig(path.with_suffix(".png"), dpi=110)
        print(path.with_suffix(".png"))


def draw_perturb(lines: list[dict]) -> plt.Figure:
    """Latents per second by setting; microseconds a latent by size of the memory; the approximate option."""
    figure, (by_setting, curve, approximate) = plt.subplots(1, 3, figsize=(15, 4))
    settings = [line for line in lines if "peer_latents_per_second" in line]
    _bars(
        by_setting,
        [f"K = {line['codebook_size']:,}\n|S| = {line['capacity']:,}" for line in settings],
        {
            "ours": ([line["latents_per_second"] for line in settings], OURS),
            "PyTorch, distances and top-k": ([line["peer_latents_per_second"] for line in settings], PEER),
        },
    )
    _write_ratios(by_setting, [line["ratio"] for line in settings], [line["latents_per_second"] for line in settings])
    by_setting.set(yscale="log", ylabel="latents per second", title="one Metropolis-Hastings step")
    for line, color in zip((line for line in lines if "microseconds_by_capacity" in line), (OURS, THIRD), strict=True):
        points = {int(capacity): value for capacity, value in line["microseconds_by_capacity"].items()}
        curve.plot(points.keys(), points.values(), marker="o", color=color, label=f"d = {line['dim']}")
    curve.set(xscale="log", yscale="log", xlabel="latents in the memory", ylabel="microseconds a latent")
    curve.set_title("cost by size of the memory")
    curve.legend(frameon=False)
    for line, marker in zip((line for line in lines if "by_approximate" in line), "os^v", strict=True):
        results = line["by_approximate"].values()
        exact = line["by_approximate"]["0.0"]["latents_per_second"]
        speedup = [result["latents_per_second"] / exact for result in results]
        label = f"K = {line['codebook_size']:,}"
        approximate.plot(
            [result["recall"] for result in results], speedup, marker=marker, label=label, linewidth=1, color=OURS
        )
    approximate.set(xlabel="recall of the M nearest", ylabel="times as fast as exact", title="approximate = 0 ... 1")
    approximate.invert_xaxis()
    approximate.legend(frameon=False)
    return figure


def draw_kmeans(lines: list[dict]) -> plt.Figure:
    """Seconds of a fit; latents assigned per second."""
    figure, (fit, assign) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(1, 2))
    (small,) = (line for line in lines if "peer_seconds" in line)
    _bars(
        fit,
        [f"K = {small['codebook_size']:,}\n{small['num_points']:,} points"],
        {"ours": ([small["seconds"]], OURS), "scikit-learn": ([small["peer_seconds"]], PEER)},
    )
    fit.set(ylabel="seconds", title="fitting a codebook")
    _write_ratios(fit, [small["ratio"]], [small["seconds"]])
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
    """Seconds a step against PyTorch; by quantizer."""
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


def _write_ratios(axes: plt.Axes, ratios: list[float], heights: list[float]) -> None:
    for place, (ratio, height) in enumerate(zip(ratios, heights, strict=True)):
        axes.annotate(f"{ratio:.3g} x", (place, height), ha="center", va="bottom", fontsize=8, fontweight="bold")


if __name__ == "__main__":
    main()
