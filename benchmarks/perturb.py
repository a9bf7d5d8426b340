"""The sampler against the same work in plain PyTorch, on the CPU, alternating in one process.

python -m benchmarks.perturb [--parts settings curve approximate] [--settings 256,3 1024,4] [--latents 16384]

JSON lines:

- `settings`: one Metropolis-Hastings step for latents from N(0, I) in a memory of K * 16 d latents from N(0, I), k = 8
  and M = 16 d, which searches the memory twice. Before every repeat as many new latents as 1 % of the batch replace
  the oldest of the memory, and the search follows inside the timing. The peer finds distances with `torch.cdist` and
  `torch.topk`; at large K it does fewer latents. Exits with 1 if the acceptance rates of the two differ by more than
  0.03: then the work is not the same.
- `curve`: the same step by size of the memory, d = 4 and 5, M = 16 d.
- `approximate`: what a relative error of the distances saves, and what it changes. Recall is the share of the true M
  nearest among the M that were found.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys

import jax
import numpy as np

import vpvae_jax
from benchmarks import reporting
from vpvae_jax.neighbors import neighbor_distances

PARTS = ("settings", "curve", "approximate")
SETTINGS = [(256, 3), (1024, 4), (4096, 5), (16384, 5)]  # the authors'
CAPACITIES = [2**12, 2**14, 2**16, 2**18, 1_310_720]
ERRORS = [0.0, 0.1, 0.2, 0.5, 1.0]
K_DENSITY = 8
NEIGHBORS_PER_DIM = 16  # M = 16 d
PUSH_FRACTION = 0.01
MAX_RATE_DIFFERENCE = 0.03
PEER_DISTANCES = 2**28  # distances a search of the peer computes at most: seconds, not minutes, at large K
MIN_PEER_LATENTS = 512
CHUNK_DISTANCES = 2**26  # distances the peer holds at a time, 256 MiB; smaller chunks were slower


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--settings", nargs="+", type=_setting, default=SETTINGS, metavar="K,D")
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    try:
        import torch
    except ImportError:
        torch = None
        print("PyTorch is missing, so there is no peer: pip install '.[benchmark]'", file=sys.stderr)
    else:
        torch.set_num_threads(os.cpu_count())

    is_same_work = True
    if "settings" in arguments.parts:
        for codebook_size, dim in arguments.settings:
            line = measure_setting(torch, codebook_size, dim, arguments.latents, arguments.repeats)
            reporting.write(line)
            if torch is not None and abs(line["acceptance_rate"] - line["peer_acceptance_rate"]) > MAX_RATE_DIFFERENCE:
                print(f"K={codebook_size}, d={dim}: acceptance rates differ, the work is not the same", file=sys.stderr)
                is_same_work = False
    if "curve" in arguments.parts:
        for dim in (4, 5):
            reporting.write(measure_curve(dim, arguments.latents, arguments.repeats))
    if "approximate" in arguments.parts:
        for codebook_size, dim in arguments.settings:
            reporting.write(measure_approximate(codebook_size, dim, arguments.latents, arguments.repeats))
    return 0 if is_same_work else 1


class Sampler:
    """A memory and latents that change from step to step as in training."""

    def __init__(self, capacity: int, dim: int, num_latents: int):
        self.memory = vpvae_jax.memory_init(jax.random.key(0), capacity, dim)
        self.num_latents, self.dim, self.num_steps = num_latents, dim, 0

    def next(self) -> jax.Array:
        """New latents, and some others into the memory."""
        self.num_steps += 1
        z_key, push_key = jax.random.split(jax.random.key(self.num_steps))
        num_pushed = min(max(1, round(PUSH_FRACTION * self.num_latents)), len(self.memory.samples))
        self.memory = vpvae_jax.memory_push(self.memory, jax.random.normal(push_key, (num_pushed, self.dim)))
        return jax.block_until_ready(jax.random.normal(z_key, (self.num_latents, self.dim)))

    def perturb(self, z: jax.Array, **options):
        """One step of ours."""
        key, k_radius = jax.random.key(-self.num_steps), NEIGHBORS_PER_DIM * self.dim
        return vpvae_jax.perturb(key, self.memory.samples, z, k_radius=k_radius, k_density=K_DENSITY, **options)

    def timed_steps(self, num: int, **options) -> tuple[float, float]:
        """Median seconds of so many steps after a first, and the mean acceptance rate."""
        seconds, rates = [], []
        for _ in range(num + 1):
            z = self.next()
            elapsed, (_, info) = reporting.timed(functools.partial(self.perturb, z, **options))
            seconds.append(elapsed)
            rates.append(float(info.acceptance_rate))
        return statistics.median(seconds[1:]), statistics.mean(rates)


def measure_setting(torch, codebook_size: int, dim: int, num_latents: int, repeats: int) -> dict[str, object]:
    """Medians of `repeats` timings after one warm-up of each side, which take turns on the same memory."""
    k_radius = NEIGHBORS_PER_DIM * dim
    capacity = codebook_size * k_radius
    num_peer = min(num_latents, max(MIN_PEER_LATENTS, PEER_DISTANCES // capacity))
    _compile(dim)
    sampler = Sampler(capacity, dim, num_latents)
    seconds, peer_seconds, rates, peer_rates = [], [], [], []
    for repeat in range(repeats + 1):
        z = sampler.next()
        if repeat == 0:
            peak = reporting.peak_memory(functools.partial(sampler.perturb, z))
            z = sampler.next()
        elapsed, (_, info) = reporting.timed(functools.partial(sampler.perturb, z))
        seconds.append(elapsed)
        rates.append(float(info.acceptance_rate))
        if torch is not None:
            samples = torch.from_numpy(np.array(sampler.memory.samples))
            peer_z = torch.from_numpy(np.array(z[:num_peer]))
            elapsed, (_, accepted) = reporting.timed(functools.partial(peer_perturb, torch, samples, peer_z, k_radius))
            peer_seconds.append(elapsed)
            peer_rates.append(float(accepted.float().mean()))
    line = {
        "what": "perturb: one Metropolis-Hastings step, two searches, changes of the memory included",
        "codebook_size": codebook_size,
        "dim": dim,
        "capacity": capacity,
        "k_radius": k_radius,
        "k_density": K_DENSITY,
        "repeats": repeats,
        "num_latents": num_latents,
        **_timings("", seconds, num_latents, rates),
        "peak_extra_mib": peak,
    }
    if torch is not None:
        line |= {
            "peer": "PyTorch torch.cdist + torch.topk, in chunks of queries, same Metropolis arithmetic",
            "peer_version": torch.__version__,
            "peer_num_latents": num_peer,
            **_timings("peer_", peer_seconds, num_peer, peer_rates),
        }
        line["ratio"] = line["latents_per_second"] / line["peer_latents_per_second"]
    return line


def measure_curve(dim: int, num_latents: int, repeats: int) -> dict[str, object]:
    """Microseconds a latent by size of the memory."""
    microseconds = {}
    for capacity in CAPACITIES:
        seconds, _ = Sampler(capacity, dim, num_latents).timed_steps(repeats)
        microseconds[capacity] = 1e6 * seconds / num_latents
    return {
        "what": "perturb: microseconds a latent by size of the memory",
        "dim": dim,
        "k_radius": NEIGHBORS_PER_DIM * dim,
        "num_latents": num_latents,
        "repeats": repeats,
        "microseconds_by_capacity": microseconds,
        "ratio_1310720_to_65536": microseconds[1_310_720] / microseconds[65_536],
    }


def measure_approximate(codebook_size: int, dim: int, num_latents: int, repeats: int) -> dict[str, object]:
    """Latents per second, recall and acceptance by the relative error that is allowed."""
    k_radius = NEIGHBORS_PER_DIM * dim
    sampler = Sampler(codebook_size * k_radius, dim, num_latents)
    queries = sampler.next()[:2048]
    samples = sampler.memory.samples  # of now: the memory goes on changing
    ranks = np.arange(1, 2 * k_radius + 1)
    true = np.asarray(neighbor_distances(samples, queries, ranks))
    results = {}
    for error in ERRORS:
        found = np.asarray(neighbor_distances(samples, queries, ranks[:k_radius], approximate=error))
        # A found distance is that of some sample: how far down the true list the found ones reach.
        num_true = [np.isin(row, expected[:k_radius]).sum() for row, expected in zip(found, true, strict=True)]
        seconds, rate = sampler.timed_steps(repeats, approximate=error)
        results[error] = {
            "latents_per_second": num_latents / seconds,
            "recall": float(np.mean(num_true)) / k_radius,
            "mean_relative_error_of_radius": float(np.mean(found[:, -1] / true[:, k_radius - 1])) - 1,
            "acceptance_rate": rate,
        }
    return {
        "what": "perturb: what approximate=... saves and changes",
        "codebook_size": codebook_size,
        "dim": dim,
        "num_latents": num_latents,
        "by_approximate": results,
    }


def _compile(dim: int) -> None:
    """The kernels of the search, whose compilation is no part of any step."""
    points = jax.random.normal(jax.random.key(0), (64, dim))
    jax.block_until_ready(neighbor_distances(points, points, (1,)))


def peer_perturb(torch, samples, z, k_radius: int, eta: float = 1.0):
    """`vpvae_jax.perturb` in plain PyTorch: z_tilde and which moves were accepted."""
    num, dim = z.shape
    d_k, d_m = _peer_distances(torch, samples, z, k_radius)
    direction = torch.randn(num, dim)
    length = eta * d_m * torch.rand(num) ** (1 / dim)
    proposal = z + length[:, None] * direction / direction.norm(dim=1, keepdim=True)
    d_k_new, d_m_new = _peer_distances(torch, samples, proposal, k_radius)
    log_ratio = dim * (d_k.log() + d_m.log() - d_k_new.log() - d_m_new.log())
    accepted = (torch.rand(num).log() < log_ratio) & ((proposal - z).norm(dim=1) < eta * d_m_new)
    return torch.where(accepted[:, None], proposal, z), accepted


def _peer_distances(torch, samples, queries, k_radius: int):
    """Distances to the k-th and the M-th neighbour."""
    chunks = queries.split(max(1, CHUNK_DISTANCES // len(samples)))
    nearest = [torch.cdist(chunk, samples).topk(k_radius, dim=1, largest=False).values for chunk in chunks]
    return torch.cat([distances[:, [K_DENSITY - 1, k_radius - 1]] for distances in nearest]).T


def _timings(prefix: str, seconds: list[float], num_latents: int, rates: list[float]) -> dict[str, float]:
    """Median without the warm-up; the acceptance rate is the mean of all repeats."""
    median = statistics.median(seconds[1:])
    return {
        f"{prefix}seconds": median,
        f"{prefix}latents_per_second": num_latents / median,
        f"{prefix}acceptance_rate": statistics.mean(rates),
    }


def _setting(text: str) -> tuple[int, int]:
    codebook_size, dim = text.split(",")
    return int(codebook_size), int(dim)


if __name__ == "__main__":
    sys.exit(main())
