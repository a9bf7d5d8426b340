"""A backend that scans every sample, in tiles of bounded size: any XLA platform, exact. See `neighbors.backend`.

Distances come from coordinate differences, not from the expansion |x|^2 - 2xy + |y|^2: they are exact at zero and keep
float32 precision for close points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vpvae_jax.neighbors.sharding import varying_like
from vpvae_jax.neighbors.xla.query_chunks import map_queries, search_along

_MAX_SAMPLE_TILE = 16_384


def neighbor_distances(samples: jax.Array, queries: jax.Array, ranks: tuple[int, ...]) -> jax.Array:
    """Search as `vpvae_jax.neighbors.neighbor_distances` describes.

    Avoid when: on a CPU, where XLA's `top_k` is 20 to 60 times slower than the tree.
    """
    num_kept = max(ranks)
    columns = jnp.array([rank - 1 for rank in ranks])

    def search(query_tile: jax.Array) -> jax.Array:
        def merge(smallest, squared, _):
            candidates = jnp.concatenate([smallest, squared], axis=1)
            return -jax.lax.top_k(-candidates, num_kept)[0]

        start = jnp.full((query_tile.shape[0], num_kept), jnp.inf, jnp.float32)
        smallest = _scan_samples(samples, query_tile, start, merge)
        return nan_where_not_finite(query_tile, jnp.sqrt(smallest[:, columns]))

    return map_queries(search, queries, min(samples.shape[0], _MAX_SAMPLE_TILE))


def neighbor_distances_along(
    samples: jax.Array, queries: jax.Array, steps: jax.Array, ranks: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Search as `vpvae_jax.neighbors.neighbor_distances_along` describes."""
    return search_along(neighbor_distances, samples, queries, steps, ranks)


def nearest(samples: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Search as `vpvae_jax.neighbors.nearest` describes; of several nearest samples the first is taken."""

    def search(query_tile: jax.Array) -> tuple[jax.Array, jax.Array]:
        def merge(best, squared, offset):
            index, smallest = jnp.argmin(squared, axis=1), jnp.min(squared, axis=1)
            closer = smallest < best[1]
            return jnp.where(closer, index.astype(jnp.int32) + offset, best[0]), jnp.where(closer, smallest, best[1])

        num = query_tile.shape[0]
        start = (jnp.zeros((num,), jnp.int32), jnp.full((num,), jnp.inf, jnp.float32))
        index, squared = _scan_samples(samples, query_tile, start, merge)
        return index, nan_where_not_finite(query_tile, jnp.sqrt(squared)[:, None])[:, 0]

    return map_queries(search, queries, min(samples.shape[0], _MAX_SAMPLE_TILE))


def neighbor_at_rank(samples: jax.Array, queries: jax.Array, ranks: jax.Array, max_rank: int) -> jax.Array:
    """Search as `vpvae_jax.neighbors.neighbor_at_rank` describes; of equally near samples the first ranks lower."""

    def search(tile: tuple[jax.Array, jax.Array]) -> jax.Array:
        query_tile, rank_tile = tile

        def merge(best, squared, offset):
            positions = jnp.broadcast_to(jnp.arange(squared.shape[1], dtype=jnp.int32) + offset, squared.shape)
            candidates = jnp.concatenate([best[0], squared], axis=1)
            smallest, chosen = jax.lax.top_k(-candidates, max_rank)
            indices = jnp.take_along_axis(jnp.concatenate([best[1], positions], axis=1), chosen, axis=1)
            return -smallest, indices

        shape = (query_tile.shape[0], max_rank)
        start = (jnp.full(shape, jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32))
        _, indices = _scan_samples(samples, query_tile, start, merge)
        found = jnp.take_along_axis(indices, rank_tile[:, None] - 1, axis=1)[:, 0]
        return jnp.where(jnp.isfinite(query_tile).all(axis=1), found, 0)

    return map_queries(search, (queries, ranks), min(samples.shape[0], _MAX_SAMPLE_TILE))


def nan_where_not_finite(queries: jax.Array, distances: jax.Array) -> jax.Array:
    """Put NaN in the rows of `(n, r)` distances whose queries are not finite."""
    return jnp.where(jnp.isfinite(queries).all(axis=1, keepdims=True), distances, jnp.nan)


def _scan_samples(samples: jax.Array, queries: jax.Array, start: Any, merge: Callable) -> Any:
    """Fold `merge(carry, squared_distances, first_index_of_tile)` over the tiles of the samples."""
    num_samples, dim = samples.shape
    tile = min(num_samples, _MAX_SAMPLE_TILE)
    num_tiles = -(-num_samples // tile)
    padded = jnp.pad(samples, ((0, num_tiles * tile - num_samples), (0, 0)))

    def step(carry, number):
        block = jax.lax.dynamic_slice_in_dim(padded, number * tile, tile)
        squared = sum((queries[:, i, None] - block[None, :, i]) ** 2 for i in range(dim))
        is_padding = number * tile + jnp.arange(tile) >= num_samples
        return merge(carry, jnp.where(is_padding, jnp.inf, squared), number * tile), None

    return jax.lax.scan(step, varying_like(start, samples, queries), jnp.arange(num_tiles, dtype=jnp.int32))[0]
