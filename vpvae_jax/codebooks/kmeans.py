"""k-means: k-means++ or k-means|| seeding, Lloyd iterations, assignment."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.neighbors import nearest

_MAX_DIRECT = 2**27  # points * codes up to which k-means++ goes over all points: some 3 s on 2 cores
_CANDIDATES = 4  # times the number that its authors suggest; at K = 1024, d = 4 it ends at an error 0.3 % lower
_NUM_ROUNDS = 5  # of k-means||, the authors' recommendation


class KMeansInfo(NamedTuple):
    """How a fit ended."""

    mean_squared_distance: jax.Array  # () float32, of the points to their nearest returned centroid
    num_iterations: jax.Array  # () int32
    num_reseeded: jax.Array  # () int32, empty clusters re-seeded over all iterations
    num_empty: jax.Array  # () int32, clusters without a point at the end (more codes than distinct points)


def kmeans(
    key: jax.Array, points: jax.Array, num_codes: int, *, max_iterations: int = 100, tolerance: float = 1e-3
) -> tuple[jax.Array, KMeansInfo]:
    """Lloyd's algorithm from a greedy k-means++ start. Deterministic in the key.

    Large problems start from k-means||, which makes the same greedy choice among candidates that stand for all
    points. A cluster that loses its last point is re-seeded with the farthest member of one of the largest clusters.

    Args:
        key: random key.
        points: `(n, d)` float points.
        num_codes: K, number of centroids, at most n.
        max_iterations: upper bound on Lloyd iterations.
        tolerance: stop once the root mean square shift of the centroids falls below this share of the root mean
            squared distance of a point to its centroid.

    Returns:
        codebook: `(K, d)` float32 centroids.
        info: see `KMeansInfo`.

    Raises:
        ValueError: fewer points than codes, points that are not `(n, d)`, num_codes below 1.

    Source: Arthur & Vassilvitskii 2007 (k-means++, with the greedy choice among candidates they suggest);
        Bahmani et al. 2012 (k-means||); Lloyd 1982.
    """
    if points.ndim != 2:
        raise ValueError(f"points have shape {points.shape}, expected (n, d)")
    if not 1 <= num_codes <= points.shape[0]:
        raise ValueError(
            f"{points.shape[0]} latents cannot make a codebook of {num_codes} codes: "
            f"lower the codebook size or pass more latents"
        )
    return _kmeans(key, points.astype(jnp.float32), num_codes, max_iterations, tolerance)


@functools.partial(jax.jit, static_argnames=("num_codes", "max_iterations"))
def _kmeans(key, points, num_codes, max_iterations, tolerance):
    def unfinished(carry):
        _, shift, error, iteration, _ = carry
        return (iteration < max_iterations) & (shift > tolerance**2 * error)

    def lloyd(carry):
        codebook, _, _, iteration, num_reseeded = carry
        indices, distances = nearest(codebook, points)
        counts = _sum_per_code(jnp.ones_like(distances), indices, num_codes)
        means = _sum_per_code(points, indices, num_codes) / jnp.maximum(counts, 1)[:, None]
        updated, num_empty = _reseed_empty(means, counts, points, indices, distances)
        shift = jnp.mean(jnp.sum((updated - codebook) ** 2, axis=1))
        return updated, shift, jnp.mean(distances**2), iteration + 1, num_reseeded + num_empty

    zero = jnp.zeros((), jnp.int32)
    is_large = points.shape[0] * num_codes > _MAX_DIRECT
    seed = kmeans_parallel if is_large else kmeans_plus_plus
    start = (seed(key, points, num_codes), jnp.inf, 1.0, zero, zero)
    codebook, _, _, num_iterations, num_reseeded = jax.lax.while_loop(unfinished, lloyd, start)
    indices, distances = nearest(codebook, points)
    is_empty = jnp.ones((num_codes,), bool).at[indices].set(False)
    return codebook, KMeansInfo(jnp.mean(distances**2), num_iterations, num_reseeded, is_empty.sum())


@functools.partial(jax.jit, static_argnames=("num_codes", "candidates"))
def kmeans_plus_plus(
    key: jax.Array,
    points: jax.Array,
    num_codes: int,
    weights: jax.Array | None = None,
    *,
    candidates: int = _CANDIDATES,
) -> jax.Array:
    """Greedy k-means++ seeds: each is the best of some candidates drawn by squared distance.

    Args:
        key: random key.
        points: `(n, d)` float32.
        num_codes: K, number of seeds.
        weights: `(n,)` how many points each stands for; default 1.
        candidates: how many a seed, in multiples of `2 + log K`.

    Returns:
        `(K, d)` float32, each one of the points.
    """
    num_points, dim = points.shape
    if weights is None:
        weights = jnp.ones((num_points,))
    num_candidates = candidates * (2 + int(math.log(num_codes)))
    first_key, key = jax.random.split(key)
    first = points[_draw(jax.random.uniform(first_key, ()), weights)]

    def squared_to(center):
        return sum((points[:, i] - center[i]) ** 2 for i in range(dim))

    def add_seed(number, carry):
        seeds, squared = carry
        u = jax.random.uniform(jax.random.fold_in(key, number), (num_candidates,))
        candidates = points[_draw(u, weights * squared)]
        reduced = jnp.minimum(squared, jax.vmap(squared_to)(candidates))
        best = jnp.argmin((weights * reduced).sum(axis=1))
        return seeds.at[number].set(candidates[best]), reduced[best]

    seeds = jnp.zeros((num_codes, dim), jnp.float32).at[0].set(first)
    return jax.lax.fori_loop(1, num_codes, add_seed, (seeds, squared_to(first)))[0]


@functools.partial(jax.jit, static_argnames=("num_codes",))
def kmeans_parallel(key: jax.Array, points: jax.Array, num_codes: int) -> jax.Array:
    """k-means|| seeds: some rounds draw K candidates each, by squared distance; k-means++ chooses among them.

    A round draws one candidate from each of K equal shares of the weight: a point enters with the probability of
    the paper's independent draws, yet their number is fixed. A candidate weighs as much as the points nearest to it.

    Args:
        key: random key.
        points: `(n, d)` float32, n at least K.
        num_codes: K, number of seeds.

    Returns:
        `(K, d)` float32, each one of the points.

    Source: Bahmani et al. 2012, algorithm 2, with oversampling K and 5 rounds.
    """
    first_key, seed_key, *round_keys = jax.random.split(key, 2 + _NUM_ROUNDS)
    first = points[jax.random.randint(first_key, (1,), 0, points.shape[0])]
    squared = jnp.sum((points - first) ** 2, axis=1)
    owner = jnp.zeros(points.shape[:1], jnp.int32)
    candidates = [first]
    for number, round_key in enumerate(round_keys):
        u = (jnp.arange(num_codes) + jax.random.uniform(round_key, (num_codes,))) / num_codes
        candidates.append(points[_draw(u, squared)])
        indices, distances = nearest(candidates[-1], points)
        is_closer = distances**2 < squared
        owner = jnp.where(is_closer, indices + 1 + number * num_codes, owner)
        squared = jnp.minimum(squared, distances**2)
    weights = _sum_per_code(jnp.ones_like(squared), owner, 1 + _NUM_ROUNDS * num_codes)
    return kmeans_plus_plus(seed_key, jnp.concatenate(candidates), num_codes, weights, candidates=1)


def _draw(u: jax.Array, weights: jax.Array) -> jax.Array:
    """Indices drawn by weight with `u` from U[0, 1)."""
    cumulative = jnp.cumsum(weights)
    below_one = jnp.minimum(u, 1 - jnp.finfo(jnp.float32).epsneg)
    drawn = jnp.searchsorted(cumulative, below_one * cumulative[-1], side="right")
    return jnp.minimum(drawn, weights.shape[0] - 1)


def check_codebook(codebook_size: int, latent_dim: int) -> None:
    """Raise ValueError for a codebook without codes or dimensions."""
    if codebook_size < 1:
        raise ValueError(f"codebook_size={codebook_size}: a codebook needs at least one code")
    if latent_dim < 1:
        raise ValueError(f"latent_dim={latent_dim}: a latent needs at least one dimension")


@jax.jit
def assign(codebook: jax.Array, z: jax.Array) -> jax.Array:
    """Index of the nearest code of each latent.

    Args:
        codebook: `(K, d)`.
        z: `(..., d)`; compared in float32.

    Returns:
        `(...)` int32 indices.
    """
    return nearest(codebook, z.reshape(-1, z.shape[-1]))[0].reshape(z.shape[:-1])


def _sum_per_code(values: jax.Array, indices: jax.Array, num_codes: int) -> jax.Array:
    return jax.ops.segment_sum(values, indices, num_segments=num_codes)


def _reseed_empty(means, counts, points, indices, distances):
    """Give the i-th empty cluster the farthest member of the i-th largest cluster."""
    num_codes = means.shape[0]
    farthest = jax.ops.segment_max(distances, indices, num_segments=num_codes)
    is_farthest = distances == farthest[indices]
    positions = jnp.where(is_farthest, jnp.arange(points.shape[0]), points.shape[0])
    member = jax.ops.segment_min(positions, indices, num_segments=num_codes)
    largest_first = jnp.argsort(-counts)
    is_empty = counts == 0
    donor = largest_first[jnp.cumsum(is_empty) - 1]
    seeds = points[jnp.minimum(member[donor], points.shape[0] - 1)]
    return jnp.where(is_empty[:, None], seeds, means), is_empty.sum()
