"""The sampler against the same work in plain PyTorch, on the CPU, alternating in one process.

python -m benchmarks.perturb [--settings 256,3 1024,4] [--latents 16384] [--repeats 5]

One JSON line a setting. The work: one Metropolis-Hastings step for latents from N(0, I) in a memory of K * 16 d latents
from N(0, I), k = 8 and M = 16 d, which searches the memory twice. Before every repeat as many new latents as 1 % of the
batch enter the memory, so the tree is built anew inside the timing. The peer finds distances with `torch.cdist` and
`torch.topk`. Exits with 1 if the acceptance rates of the two differ by more than 0.03: then the work is not the same.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

import vpvae_jax

K_DENSITY = 8
NEIGHBORS_PER_DIM = 16  # M = 16 d
PUSH_FRACTION = 0.01
MAX_RATE_DIFFERENCE = 0.03
PEER_DISTANCES = 2**28  # distances a search of the peer computes at most: seconds, not minutes, at large K
MIN_PEER_LATENTS = 1024
CHUNK_DISTANCES = 2**26  # distances the peer holds at a time, 256 MiB; smaller chunks were slower


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", type=_setting, default=[(256, 3), (1024, 4)], metavar="K,D")
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
    for codebook_size, dim in arguments.settings:
        line = measure(torch, codebook_size, dim, arguments.latents, arguments.repeats)
        print(json.dumps(line), flush=True)
        if torch is not None and abs(line["acceptance_rate"] - line["peer_acceptance_rate"]) > MAX_RATE_DIFFERENCE:
            print(f"K={codebook_size}, d={dim}: acceptance rates differ, the work is not the same", file=sys.stderr)
            is_same_work = False
    return 0 if is_same_work else 1


def measure(torch, codebook_size: int, dim: int, num_latents: int, repeats: int) -> dict[str, object]:
    """Medians of `repeats` timings after one warm-up of each side, which take turns on the same memory."""
    k_radius = NEIGHBORS_PER_DIM * dim
    capacity = codebook_size * k_radius
    num_peer = min(num_latents, max(MIN_PEER_LATENTS, PEER_DISTANCES // capacity))
    memory = vpvae_jax.memory_init(jax.random.key(0), capacity, dim)
    seconds, peer_seconds, rates, peer_rates = [], [], [], []
    for repeat in range(repeats + 1):
        z_key, push_key, key = jax.random.split(jax.random.key(repeat + 1), 3)
        z = jax.random.normal(z_key, (num_latents, dim))
        num_pushed = max(1, round(PUSH_FRACTION * num_latents))
        memory = vpvae_jax.memory_push(memory, jax.random.normal(push_key, (num_pushed, dim)))
        jax.block_until_ready((z, memory))

        step = functools.partial(vpvae_jax.perturb, key, memory.samples, z, k_radius=k_radius, k_density=K_DENSITY)
        elapsed, (_, info) = _timed(lambda step=step: jax.block_until_ready(step()))
        seconds.append(elapsed)
        rates.append(float(info.acceptance_rate))
        if torch is not None:
            samples = torch.from_numpy(np.array(memory.samples))
            peer_z = torch.from_numpy(np.array(z[:num_peer]))
            elapsed, (_, accepted) = _timed(functools.partial(peer_perturb, torch, samples, peer_z, k_radius))
            peer_seconds.append(elapsed)
            peer_rates.append(float(accepted.float().mean()))

    line = {
        "what": "perturb: one Metropolis-Hastings step, two searches, tree build included",
        "codebook_size": codebook_size,
        "dim": dim,
        "capacity": capacity,
        "k_radius": k_radius,
        "k_density": K_DENSITY,
        "repeats": repeats,
        "num_latents": num_latents,
        **_timings("", seconds, num_latents, rates),
    }
    if torch is not None:
        line |= {
            "peer": "PyTorch torch.cdist + torch.topk, in chunks of queries, same Metropolis arithmetic",
            "peer_version": torch.__version__,
            "peer_num_latents": num_peer,
            **_timings("peer_", peer_seconds, num_peer, peer_rates),
        }
        line["ratio"] = _round(line["latents_per_second"] / line["peer_latents_per_second"])
    return line | {
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores",
        "jax_version": jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


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


def _timed(function: Callable[[], object]):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _timings(prefix: str, seconds: list[float], num_latents: int, rates: list[float]) -> dict[str, float]:
    """Median without the warm-up; the acceptance rate is the mean of all repeats."""
    median = statistics.median(seconds[1:])
    return {
        f"{prefix}seconds": _round(median),
        f"{prefix}latents_per_second": _round(num_latents / median),
        f"{prefix}acceptance_rate": round(statistics.mean(rates), 4),
    }


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _setting(text: str) -> tuple[int, int]:
    codebook_size, dim = text.split(",")
    return int(codebook_size), int(dim)


def _cpu_model() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
