"""k-means: k-means++ or k-means|| seeding, Lloyd iterations, assignment."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vpvae_jax.neighbors import nearest
from vpvae_jax.neighbors.sharding import on_auto_axes, spec_of, varying_like

_MAX_DIRECT = 2**27  # points * codes up to which k-means++ draws from all points: about 3 s on 2 cores
_CANDIDATES = 4  # times the number that its authors suggest: at K = 1024, d = 4 the error ends 0.3 % lower
_NUM_ROUNDS = 5  # of k-means||, the authors' recommendation
# Squared distances of points up to 2^32, summed over any number of them, stay within float32; points with a larger or
# smaller maximum are scaled by a power of two, which changes no other bit.
_MAX_EXPONENT = 32
_SCALE_EXPONENTS = (-112, 126)  # of normal float32 numbers that bring any maximum into that range


class KMeansInfo(NamedTuple):
    """The result of a fit, besides the codebook."""

    mean_squared_distance: jax.Array  # () float32, of the points to their nearest returned centroid
    num_iterations: jax.Array  # () int32
    num_reseeded: jax.Array  # () int32, empty clusters re-seeded over all iterations
    num_empty: jax.Array  # () int32, clusters without a point at the end: there were fewer distinct points than codes


def kmeans(
    key: jax.Array, points: jax.Array, num_codes: int, *, max_iterations: int = 100, tolerance: float = 1e-3
) -> tuple[jax.Array, KMeansInfo]:
    """Fit a codebook by Lloyd's algorithm from a greedy k-means++ start. Deterministic in the key.

    Large problems start from k-means||, which makes the same greedy choice among candidates that stand for all
    points. A cluster that loses its last point is re-seeded with the farthest member of one of the largest clusters.

    Args:
        key: random key.
        points: `(n, d)` finite float points, of any magnitude; computed in float32. Inside `jit` and other
            transformations nothing can be raised: one point that is not finite then makes the mean squared distance
            NaN, and the codebook is of no use.
        num_codes: K, number of centroids, at most n.
        max_iterations: upper bound on Lloyd iterations.
        tolerance: stop once the root mean square shift of the centroids falls below this share of the root mean
            squared distance of a point to its centroid.

    Returns:
        codebook: `(K, d)` float32 centroids.
        info: see `KMeansInfo`. Where the points are sharded, sums differ in their last bits from those on one device.

    Raises:
        ValueError: fewer points than codes, points that are not `(n, d)`, num_codes below 1, points that are not
            finite.

    Source: Arthur & Vassilvitskii 2007 (k-means++, with the greedy choice among candidates they suggest);
        Bahmani et al. 2012 (k-means||); Lloyd 1982.
    """
    if points.ndim != 2:
        raise ValueError(f"points have shape {points.shape}: expected (n, d)")
    if not 1 <= num_codes <= points.shape[0]:
        raise ValueError(
            f"{points.shape[0]} latents cannot make a codebook of {num_codes} codes: "
            f"lower the codebook size or pass more latents"
        )
    _check_finite("points", points)
    return _kmeans(key, points.astype(jnp.float32), num_codes, max_iterations, tolerance)


@functools.partial(jax.jit, static_argnames=("num_codes", "max_iterations"))
def _kmeans(key, points, num_codes, max_iterations, tolerance):
    def fit(key, points, tolerance):
        scale = _scale_of(points)
        codebook, info = _fit(key, points * scale, num_codes, max_iterations, tolerance)
        error = info.mean_squared_distance / scale / scale
        return codebook / scale, info._replace(mean_squared_distance=error)

    return on_auto_axes(fit, key, points, tolerance, out_specs=P())


def _fit(key, points, num_codes, max_iterations, tolerance):
    def unfinished(carry):
        _, shift, error, iteration, _ = carry
        return (iteration < max_iterations) & (shift > tolerance**2 * error)

    def lloyd(carry):
        codebook, _, _, iteration, num_reseeded = carry
        indices, distances = nearest(codebook, points)
        counts = _sum_per_code(jnp.ones_like(distances), indices, num_codes)
        # Of differences: sums of points far from the origin would lose the spread within a cell, and the mean of equal
        # points would differ from them.
        offsets = _sum_per_code(points - codebook[indices], indices, num_codes)
        means = codebook + offsets / jnp.maximum(counts, 1)[:, None]
        updated, num_empty = _reseed_empty(means, counts, points, indices, distances)
        shift = jnp.mean(jnp.sum((updated - codebook) ** 2, axis=1))
        return updated, shift, jnp.mean(distances**2), iteration + 1, num_reseeded + num_empty

    zero = jnp.zeros((), jnp.int32)
    is_large = points.shape[0] * num_codes > _MAX_DIRECT
    seed = kmeans_parallel if is_large else kmeans_plus_plus
    start = (seed(key, points, num_codes), jnp.float32(jnp.inf), jnp.float32(1.0), zero, zero)
    start = varying_like(start, points)
    codebook, _, _, num_iterations, num_reseeded = jax.lax.while_loop(unfinished, lloyd, start)
    indices, distances = nearest(codebook, points)
    is_empty = jnp.ones((num_codes,), bool).at[indices].set(False)
    num_empty = is_empty.sum(dtype=jnp.int32)
    return codebook, KMeansInfo(jnp.mean(distances**2), num_iterations, num_reseeded, num_empty)


def _scale_of(points: jax.Array) -> jax.Array:
    """Choose a power of two that makes squares of the points fit into float32; 1 for most points."""
    largest = jnp.max(jnp.abs(points))
    exponent = jnp.frexp(largest)[1]
    wanted = jnp.clip(-exponent, *_SCALE_EXPONENTS)
    is_extreme = jnp.isfinite(largest) & (largest > 0) & (jnp.abs(exponent) > _MAX_EXPONENT)
    return jnp.ldexp(jnp.float32(1), jnp.where(is_extreme, wanted, 0))


@jax.jit
def _count_not_finite(array: jax.Array) -> jax.Array:
    return on_auto_axes(lambda a: (~jnp.isfinite(a).all(axis=-1)).sum(dtype=jnp.int32), array, out_specs=P())


def _check_finite(name: str, array: jax.Array) -> None:
    """Raise ValueError for rows that are not finite, unless the array is traced and has no values yet."""
    if isinstance(array, jax.core.Tracer):
        return
    num = _count_not_finite(array)
    if not isinstance(num, jax.core.Tracer) and num:  # a constant inside a transformation is traced here
        raise ValueError(
            f"{int(num)} of {math.prod(array.shape[:-1])} {name} are not finite (NaN or infinite): "
            f"find where they come from, or leave them out, jnp.isfinite({name}).all(axis=-1) tells which are finite"
        )


@functools.partial(jax.jit, static_argnames=("num_codes", "candidates"))
def kmeans_plus_plus(
    key: jax.Array,
    points: jax.Array,
    num_codes: int,
    weights: jax.Array | None = None,
    *,
    candidates: int = _CANDIDATES,
) -> jax.Array:
    """Draw greedy k-means++ seeds: each is the best of some candidates drawn by squared distance.

    Args:
        key: random key.
        points: `(n, d)` float32.
        num_codes: K, number of seeds.
        weights: `(n,)` how many points each stands for; default 1.
        candidates: number of candidates for each seed, in multiples of `2 + log K`.

    Returns:
        `(K, d)` float32, each one of the points.
    """
    num_points, dim = points.shape
    if weights is None:
        weights = jnp.ones((num_points,), jnp.float32)
    num_candidates = candidates * (2 + int(math.log(num_codes)))
    first_key, key = jax.random.split(key)
    first = points[_draw(jax.random.uniform(first_key, (), jnp.float32), weights)]

    def squared_to(center):
        return sum((points[:, i] - center[i]) ** 2 for i in range(dim))

    def add_seed(number, carry):
        seeds, squared = carry
        u = jax.random.uniform(jax.random.fold_in(key, number), (num_candidates,), jnp.float32)
        candidates = points[_draw(u, weights * squared)]
        reduced = jnp.minimum(squared, jax.vmap(squared_to)(candidates))
        best = jnp.argmin((weights * reduced).sum(axis=1))
        return seeds.at[number].set(candidates[best]), reduced[best]

    seeds = jnp.zeros((num_codes, dim), jnp.float32).at[0].set(first)
    start = varying_like((seeds, squared_to(first)), points, weights)
    return jax.lax.fori_loop(1, num_codes, add_seed, start)[0]


@functools.partial(jax.jit, static_argnames=("num_codes",))
def kmeans_parallel(key: jax.Array, points: jax.Array, num_codes: int) -> jax.Array:
    """Draw k-means|| seeds: some rounds draw K candidates each, by squared distance; k-means++ chooses among them.

    A round draws one candidate from each of K equal shares of the weight. A point is drawn with the probability of the
    paper's independent draws, but the number of draws is fixed. A candidate's weight is the number of points nearest
    to it.

    Args:
        key: random key.
        points: `(n, d)` float32, n at least K.
        num_codes: K, number of seeds.

    Returns:
        `(K, d)` float32, each one of the points.

    Source: Bahmani et al. 2012, algorithm 2, with oversampling K and 5 rounds.
    """
    first_key, seed_key, *round_keys = jax.random.split(key, 2 + _NUM_ROUNDS)
    first = points[jax.random.randint(first_key, (1,), 0, points.shape[0], jnp.int32)]
    squared = jnp.sum((points - first) ** 2, axis=1)
    owner = jnp.zeros(points.shape[:1], jnp.int32)
    candidates = [first]
    for number, round_key in enumerate(round_keys):
        u = jnp.arange(num_codes) + jax.random.uniform(round_key, (num_codes,), jnp.float32)
        candidates.append(points[_draw(u / num_codes, squared)])
        indices, distances = nearest(candidates[-1], points)
        is_closer = distances**2 < squared
        owner = jnp.where(is_closer, indices + 1 + number * num_codes, owner)
        squared = jnp.minimum(squared, distances**2)
    weights = _sum_per_code(jnp.ones_like(squared), owner, 1 + _NUM_ROUNDS * num_codes)
    return kmeans_plus_plus(seed_key, jnp.concatenate(candidates), num_codes, weights, candidates=1)


def _draw(u: jax.Array, weights: jax.Array) -> jax.Array:
    """Draw indices by weight with `u` from U[0, 1)."""
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


def assign(codebook: jax.Array, z: jax.Array) -> jax.Array:
    """Find the nearest code of each latent.

    Args:
        codebook: `(K, d)` finite codes, of any magnitude.
        z: `(..., d)` finite latents; compared in float32. Inside `jit` and other transformations nothing can be raised:
            a latent that is not finite then gets index 0, and so may every latent where a code is not finite.

    Returns:
        `(...)` int32 indices.

    Raises:
        ValueError: codes or latents that are not finite, or of another dimension.
    """
    _check_finite("codes", codebook)
    _check_finite("latents", z)
    return _assign(codebook, z)


@jax.jit
def _assign(codebook, z):
    def assign(codebook, z):
        scale = _scale_of(codebook)
        z = z.astype(jnp.float32)
        indices = nearest(codebook.astype(jnp.float32) * scale, z.reshape(-1, z.shape[-1]) * scale)[0]
        return indices.reshape(z.shape[:-1])

    return on_auto_axes(assign, codebook, z, out_specs=spec_of(z, z.ndim - 1))


def _sum_per_code(values: jax.Array, indices: jax.Array, num_codes: int) -> jax.Array:
    return jax.ops.segment_sum(values, indices, num_segments=num_codes)


def _reseed_empty(means, counts, points, indices, distances):
    """Give the i-th empty cluster the farthest member of the i-th largest cluster."""
    num_codes = means.shape[0]
    farthest = jax.ops.segment_max(distances, indices, num_segments=num_codes)
    is_farthest = distances == farthest[indices]
    positions = jnp.where(is_farthest, jnp.arange(points.shape[0], dtype=jnp.int32), points.shape[0])
    member = jax.ops.segment_min(positions, indices, num_segments=num_codes)
    largest_first = jnp.argsort(-counts)
    is_empty = counts == 0
    donor = largest_first[jnp.cumsum(is_empty) - 1]
    seeds = points[jnp.minimum(member[donor], points.shape[0] - 1)]
    return jnp.where(is_empty[:, None], seeds, means), is_empty.sum(dtype=jnp.int32)
