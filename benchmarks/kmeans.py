"""Codebooks: fitting against scikit-learn, assigning against PyTorch and scipy, on the CPU, in one process.

python -m benchmarks.kmeans [--smoke] [--parts fit fit_large assign]

JSON lines, points from N(0, I):

- `fit`: K = 1024, d = 4, 65,536 points, three seeds, sides taking turns; the peer is `sklearn.cluster.KMeans` with one
  initialization by k-means++ and its own tolerance. Compilation is not counted, as a second fit compiles nothing.
- `fit_large`: K = 16,384, d = 5, 1,310,720 points; no peer, as scikit-learn takes hours.
- `assign`: latents per second to the nearest of K codes; the peers are `torch.cdist` with `argmin` in chunks, and
  scipy's `cKDTree.query` on all cores. Exits with 1 if an index differs whose distance is not a tie.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from scipy.spatial import cKDTree

import vpvae_jax
from benchmarks import reporting, smoke

PARTS = ("fit", "fit_large", "assign")
FIT, FIT_LARGE = (1024, 4, 65_536), (16_384, 5, 1_310_720)  # K, d, points
SMOKE_FIT = (16, 2, 1024)
SETTINGS = [(256, 3), (1024, 4), (4096, 5), (16384, 5)]
SMOKE_SETTINGS = [(16, 2)]
NUM_SEEDS = 3
NUM_ASSIGNED, SMOKE_ASSIGNED = 2**20, 2**12
REPEATS = 5
MAX_PEER_DISTANCES = 2**31  # of an assignment by PyTorch: seconds at large K
CHUNK_DISTANCES = 2**24


def main(argv: Sequence[str] | None = None) -> int:
    parser = smoke.Parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    try:
        import sklearn  # noqa: F401
        import torch
    except ImportError as error:
        print(f"error: {error}, so there is no peer: pip install '.[benchmark]'", file=sys.stderr)
        return 1
    torch.set_num_threads(os.cpu_count())
    is_same_work = True
    if "fit" in given.parts:
        reporting.write(measure_fit(*SMOKE_FIT if given.smoke else FIT))
    if "fit_large" in given.parts:
        reporting.write(measure_large_fit(*SMOKE_FIT if given.smoke else FIT_LARGE))
    if "assign" in given.parts:
        num_latents, repeats = (SMOKE_ASSIGNED, 1) if given.smoke else (NUM_ASSIGNED, REPEATS)
        for codebook_size, dim in SMOKE_SETTINGS if given.smoke else SETTINGS:
            line = measure_assign(torch, codebook_size, dim, num_latents, repeats)
            reporting.write(line)
            is_same_work &= line["num_differing"] == 0
    return 0 if is_same_work else 1


def measure_fit(num_codes: int, dim: int, num_points: int) -> dict[str, object]:
    """Measure seconds and mean squared distance of both sides, by seed."""
    import sklearn
    from sklearn.cluster import KMeans

    points = jax.random.normal(jax.random.key(0), (num_points, dim))
    jax.block_until_ready(vpvae_jax.kmeans(jax.random.key(0), points, num_codes))
    ours, theirs = [], []
    for seed in range(1, NUM_SEEDS + 1):
        key = jax.random.key(seed)
        seconds, (_, info) = reporting.timed(lambda key=key: vpvae_jax.kmeans(key, points, num_codes))
        ours.append((seconds, float(info.mean_squared_distance), int(info.num_iterations)))
        estimator = KMeans(num_codes, init="k-means++", n_init=1, random_state=seed)
        start = time.perf_counter()
        estimator.fit(np.asarray(points))
        theirs.append((time.perf_counter() - start, estimator.inertia_ / num_points, estimator.n_iter_))
    seconds, errors, iterations = zip(*ours, strict=True)
    peer_seconds, peer_errors, peer_iterations = zip(*theirs, strict=True)
    return {
        "what": "kmeans: fit, k-means++ and Lloyd",
        "codebook_size": num_codes,
        "dim": dim,
        "num_points": num_points,
        "seconds": statistics.median(seconds),
        "mean_squared_distance": f"{statistics.mean(errors):.5f}",
        "num_iterations": iterations,
        "peer": "sklearn.cluster.KMeans(init='k-means++', n_init=1)",
        "peer_version": sklearn.__version__,
        "peer_seconds": statistics.median(peer_seconds),
        "peer_mean_squared_distance": f"{statistics.mean(peer_errors):.5f}",
        "peer_num_iterations": [int(number) for number in peer_iterations],
        "ratio": statistics.median(peer_seconds) / statistics.median(seconds),
        "relative_difference_of_errors": statistics.mean(errors) / statistics.mean(peer_errors) - 1,
    }


def measure_large_fit(num_codes: int, dim: int, num_points: int) -> dict[str, object]:
    """Measure the seconds of one fit, compilation included."""
    points = jax.block_until_ready(jax.random.normal(jax.random.key(0), (num_points, dim)))
    seconds, (_, info) = reporting.timed(lambda: vpvae_jax.kmeans(jax.random.key(1), points, num_codes))
    return {
        "what": "kmeans: fit, k-means|| and Lloyd, compilation included",
        "codebook_size": num_codes,
        "dim": dim,
        "num_points": num_points,
        "seconds": seconds,
        "mean_squared_distance": f"{float(info.mean_squared_distance):.5f}",
        "num_iterations": int(info.num_iterations),
        "num_empty": int(info.num_empty),
    }


def measure_assign(torch, codebook_size: int, dim: int, num_latents: int, repeats: int) -> dict[str, object]:
    """Measure medians of timings that take turns, after a warm-up of each side."""
    codebook = jax.random.normal(jax.random.key(0), (codebook_size, dim))  # no fit is needed: it has no ties either
    latents = jax.random.normal(jax.random.key(1), (num_latents, dim))
    num_peer = min(num_latents, MAX_PEER_DISTANCES // codebook_size)
    tree = cKDTree(np.asarray(codebook))
    peer_codebook, peer_latents = (torch.from_numpy(np.array(array)) for array in (codebook, latents[:num_peer]))

    def peer():
        chunks = peer_latents.split(max(1, CHUNK_DISTANCES // codebook_size))
        return torch.cat([torch.cdist(chunk, peer_codebook).argmin(dim=1) for chunk in chunks])

    assign = jax.jit(vpvae_jax.assign)
    seconds, peer_seconds, tree_seconds = [], [], []
    for _ in range(repeats + 1):
        elapsed, indices = reporting.timed(lambda: assign(codebook, latents))
        seconds.append(elapsed)
        elapsed, (exact, tree_indices) = reporting.timed(lambda: tree.query(np.asarray(latents), workers=-1))
        tree_seconds.append(elapsed)
        peer_seconds.append(reporting.timed(peer)[0])
    differing = np.asarray(indices) != tree_indices
    ours = np.linalg.norm((np.asarray(latents) - np.asarray(codebook)[np.asarray(indices)])[differing], axis=1)
    rate, peer_rate = num_latents / statistics.median(seconds[1:]), num_peer / statistics.median(peer_seconds[1:])
    tree_rate = num_latents / statistics.median(tree_seconds[1:])
    return {
        "what": "assign: nearest of K codes",
        "codebook_size": codebook_size,
        "dim": dim,
        "num_latents": num_latents,
        "repeats": repeats,
        "latents_per_second": rate,
        "peer": "PyTorch torch.cdist + argmin, in chunks",
        "peer_version": torch.__version__,
        "peer_num_latents": num_peer,
        "peer_latents_per_second": peer_rate,
        "ratio": rate / peer_rate,
        "scipy_latents_per_second": tree_rate,
        "ratio_to_scipy": rate / tree_rate,
        "num_differing": int(np.sum(ours > exact[differing] * (1 + 1e-6))),
    }


if __name__ == "__main__":
    sys.exit(main())
