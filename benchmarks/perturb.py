"""The sampler against the same step by PyTorch and by scipy, on the CPU, taking turns in one process.

python -m benchmarks.perturb [--smoke] [--parts settings curve] [--settings 256,3 1024,4] [--latents 16384]

JSON lines:

- `settings`: one Metropolis-Hastings step for latents from N(0, I) in a memory of K * 16 d latents from N(0, I), k = 8
  and M = 16 d, which searches the memory twice. Before every repeat new latents, 1 % of the batch, replace the oldest
  of the memory, and the search follows inside the timing. Two peers do the same arithmetic with distances of their own:
  PyTorch by brute force (`torch.cdist`, `torch.topk`; at large K for fewer latents), and scipy's `cKDTree`, built again
  for every step, on all cores. Exits with 1 if an acceptance rate differs by more than 0.03 from ours: then the work is
  not the same.
- `curve`: the same step by size of the memory, d = 4 and 5, M = 16 d.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy
from scipy.spatial import cKDTree

import vpvae_jax
from benchmarks import reporting, smoke
from vpvae_jax.neighbors import neighbor_distances

PARTS = ("settings", "curve")
SETTINGS = [(256, 3), (1024, 4), (4096, 5), (16384, 5)]  # the authors'
SMOKE_SETTINGS = [(16, 2)]
CAPACITIES = [2**12, 2**14, 2**16, 2**18, 1_310_720]
SMOKE_CAPACITIES = [2**9, 2**10]
SMOKE_LATENTS = 4096  # enough that acceptance rates can be compared
K_DENSITY = 8
NEIGHBORS_PER_DIM = 16  # M = 16 d
PUSH_FRACTION = 0.01
MAX_RATE_DIFFERENCE = 0.03
TORCH_DISTANCES = 2**28  # that a search by PyTorch computes at most: seconds, not minutes, at large K
MIN_TORCH_LATENTS = 512
CHUNK_DISTANCES = 2**26  # that PyTorch holds at a time, 256 MiB; smaller chunks were slower


def main(argv: Sequence[str] | None = None) -> int:
    parser = smoke.Parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--settings", nargs="+", type=_setting, default=SETTINGS, metavar="K,D")
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(argv)
    capacities = CAPACITIES
    if given.smoke:
        given.settings, given.latents, given.repeats = SMOKE_SETTINGS, SMOKE_LATENTS, 1
        capacities = SMOKE_CAPACITIES
    jax.config.update("jax_platforms", "cpu")
    peers = make_peers()
    is_same_work = True
    if "settings" in given.parts:
        for codebook_size, dim in given.settings:
            line = measure_setting(peers, codebook_size, dim, given.latents, given.repeats)
            reporting.write(line)
            for peer in peers:
                difference = abs(line["acceptance_rate"] - line[f"{peer.prefix}_acceptance_rate"])
                if not difference <= MAX_RATE_DIFFERENCE:
                    print(
                        f"K={codebook_size}, d={dim}: the acceptance rate of {peer.what} differs from ours by "
                        f"{difference:.3f}, expected at most {MAX_RATE_DIFFERENCE}: the work is not the same",
                        file=sys.stderr,
                    )
                    is_same_work = False
    if "curve" in given.parts:
        for dim in (4, 5):
            reporting.write(measure_curve(dim, capacities, given.latents, given.repeats))
    return 0 if is_same_work else 1


class Peer(NamedTuple):
    """The same step by another library."""

    prefix: str  # of its keys in a line
    ratio: str  # key of our speed over its speed
    what: str
    version: str
    num_latents: Callable[[int, int], int]  # (num_latents, capacity) -> how many it does
    step: Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # (samples, z, k_radius) -> which moves were accepted


def make_peers() -> list[Peer]:
    """Return the peers that are installed."""
    rng = np.random.default_rng(0)
    scipy_peer = Peer(
        "scipy",
        "ratio_to_scipy",
        "scipy.spatial.cKDTree, built again for every step, queried on all cores",
        scipy.__version__,
        lambda num_latents, capacity: num_latents,
        functools.partial(scipy_step, rng),
    )
    try:
        import torch
    except ImportError:
        print("PyTorch is missing, scipy is the only peer: pip install '.[benchmark]'", file=sys.stderr)
        return [scipy_peer]
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    torch_peer = Peer(
        "peer",
        "ratio",
        "PyTorch torch.cdist + torch.topk, in chunks of queries",
        torch.__version__,
        lambda num_latents, capacity: min(num_latents, max(MIN_TORCH_LATENTS, TORCH_DISTANCES // capacity)),
        functools.partial(torch_step, torch),
    )
    return [torch_peer, scipy_peer]


class Sampler:
    """A memory and latents that change from step to step as in training."""

    def __init__(self, capacity: int, dim: int, num_latents: int):
        self.memory = vpvae_jax.memory_init(jax.random.key(0), capacity, dim)
        self.num_latents, self.dim, self.num_steps = num_latents, dim, 0

    def next(self) -> jax.Array:
        """Return new latents, after others were pushed into the memory."""
        self.num_steps += 1
        z_key, push_key = jax.random.split(jax.random.key(self.num_steps))
        num_pushed = min(max(1, round(PUSH_FRACTION * self.num_latents)), len(self.memory.samples))
        self.memory = vpvae_jax.memory_push(self.memory, jax.random.normal(push_key, (num_pushed, self.dim)))
        return jax.block_until_ready(jax.random.normal(z_key, (self.num_latents, self.dim)))

    def perturb(self, z: jax.Array):
        """Take one step of ours."""
        key, k_radius = jax.random.key(-self.num_steps), NEIGHBORS_PER_DIM * self.dim
        return vpvae_jax.perturb(key, self.memory.samples, z, k_radius=k_radius, k_density=K_DENSITY)


def measure_setting(
    peers: Sequence[Peer], codebook_size: int, dim: int, num_latents: int, repeats: int
) -> dict[str, object]:
    """Measure medians of `repeats` timings after one warm-up of each side; they take turns on the same memory."""
    k_radius = NEIGHBORS_PER_DIM * dim
    capacity = codebook_size * k_radius
    _compile(dim)
    sampler = Sampler(capacity, dim, num_latents)
    seconds: dict[str, list[float]] = {name: [] for name in ("", *(peer.prefix for peer in peers))}
    rates: dict[str, list[float]] = {name: [] for name in seconds}
    for repeat in range(repeats + 1):
        z = sampler.next()
        if repeat == 0:
            peak = reporting.peak_memory(functools.partial(sampler.perturb, z))
            z = sampler.next()
        elapsed, (_, info) = reporting.timed(functools.partial(sampler.perturb, z))
        seconds[""].append(elapsed)
        rates[""].append(float(info.acceptance_rate))
        samples, latents = np.array(sampler.memory.samples), np.array(z)
        for peer in peers:
            its_latents = latents[: peer.num_latents(num_latents, capacity)]
            elapsed, accepted = reporting.timed(functools.partial(peer.step, samples, its_latents, k_radius))
            seconds[peer.prefix].append(elapsed)
            rates[peer.prefix].append(float(np.mean(accepted)))
    line = {
        "what": "perturb: one Metropolis-Hastings step, two searches, changes of the memory included",
        "codebook_size": codebook_size,
        "dim": dim,
        "capacity": capacity,
        "k_radius": k_radius,
        "k_density": K_DENSITY,
        "repeats": repeats,
        "num_latents": num_latents,
        **_timings("", seconds[""], num_latents, rates[""]),
        "peak_extra_mib": peak,
    }
    for peer in peers:
        num = peer.num_latents(num_latents, capacity)
        line |= {
            peer.prefix: f"{peer.what}; same Metropolis arithmetic",
            f"{peer.prefix}_version": peer.version,
            f"{peer.prefix}_num_latents": num,
            **_timings(f"{peer.prefix}_", seconds[peer.prefix], num, rates[peer.prefix]),
        }
        line[peer.ratio] = line["latents_per_second"] / line[f"{peer.prefix}_latents_per_second"]
    return line


def measure_curve(dim: int, capacities: Sequence[int], num_latents: int, repeats: int) -> dict[str, object]:
    """Measure microseconds a latent by size of the memory."""
    microseconds = {}
    for capacity in capacities:
        sampler = Sampler(capacity, dim, num_latents)
        seconds = [reporting.timed(functools.partial(sampler.perturb, sampler.next()))[0] for _ in range(repeats + 1)]
        microseconds[capacity] = 1e6 * statistics.median(seconds[1:]) / num_latents
    return {
        "what": "perturb: microseconds a latent by size of the memory",
        "dim": dim,
        "k_radius": NEIGHBORS_PER_DIM * dim,
        "num_latents": num_latents,
        "repeats": repeats,
        "microseconds_by_capacity": microseconds,
    }


def _compile(dim: int) -> None:
    """Compile the kernels of the search, which is not part of any step."""
    points = jax.random.normal(jax.random.key(0), (64, dim))
    jax.block_until_ready(neighbor_distances(points, points, (1,)))


def scipy_step(rng: np.random.Generator, samples: np.ndarray, z: np.ndarray, k_radius: int, eta: float = 1.0):
    """Take the step of `vpvae_jax.perturb` with a k-d tree of scipy: which moves were accepted."""
    num, dim = z.shape
    # Both options were faster here than the defaults, to build and to query, for 65,536 and for 327,680 latents.
    tree = cKDTree(samples, balanced_tree=False, compact_nodes=False)

    def distances(queries):
        return tree.query(queries, k=[K_DENSITY, k_radius], workers=-1)[0].T

    d_k, d_m = distances(z)
    direction = rng.standard_normal((num, dim))
    length = eta * d_m * rng.random(num) ** (1 / dim)
    proposal = z + length[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    d_k_new, d_m_new = distances(proposal)
    log_ratio = dim * (np.log(d_k) + np.log(d_m) - np.log(d_k_new) - np.log(d_m_new))
    return (np.log(rng.random(num)) < log_ratio) & (np.linalg.norm(proposal - z, axis=1) < eta * d_m_new)


def torch_step(torch, samples: np.ndarray, z: np.ndarray, k_radius: int, eta: float = 1.0) -> np.ndarray:
    """Take the step of `vpvae_jax.perturb` in plain PyTorch: which moves were accepted."""
    memory, latents = torch.from_numpy(samples), torch.from_numpy(z)
    num, dim = latents.shape
    d_k, d_m = _torch_distances(torch, memory, latents, k_radius)
    direction = torch.randn(num, dim)
    length = eta * d_m * torch.rand(num) ** (1 / dim)
    proposal = latents + length[:, None] * direction / direction.norm(dim=1, keepdim=True)
    d_k_new, d_m_new = _torch_distances(torch, memory, proposal, k_radius)
    log_ratio = dim * (d_k.log() + d_m.log() - d_k_new.log() - d_m_new.log())
    accepted = (torch.rand(num).log() < log_ratio) & ((proposal - latents).norm(dim=1) < eta * d_m_new)
    return accepted.numpy()


def _torch_distances(torch, samples, queries, k_radius: int):
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
