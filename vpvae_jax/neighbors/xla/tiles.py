"""A backend that sorts samples into spatial tiles: any XLA platform, exact, few dimensions. See `neighbors.backend`.

Each tile has a bounding box. A query scans the tiles whose boxes are nearest, some at a time, until the next box is
farther than the neighbour it has: then no remaining tile can hold a nearer one. The number of rounds is not fixed: a
query that is not certified after one round takes another.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.neighbors.sharding import varying_like
from vpvae_jax.neighbors.xla.brute_force import nan_where_not_finite, nearest, neighbor_at_rank
from vpvae_jax.neighbors.xla.query_chunks import map_queries, search_along

__all__ = ["nearest", "neighbor_at_rank", "neighbor_distances", "neighbor_distances_along", "prunes"]

_MAX_DIM = 5  # with more, the ball of a query meets most boxes
_MIN_SAMPLES = 8_192  # with fewer, a scan of all costs no more than the sorting
_TILE = 64
_TILES_PER_ROUND = 32
_ROUNDING = 1e-5  # XLA may fuse the sums of a box and of a point differently, by d roundings at most


class _Tiles(NamedTuple):
    """Samples in boxes."""

    points: jax.Array  # (num_tiles, _TILE, d), inf in places without a sample
    lower: jax.Array  # (num_tiles, d) corners of the boxes
    upper: jax.Array  # (num_tiles, d)


def prunes(num_samples: int, dim: int) -> bool:
    """Tell whether sorting pays: whether most tiles are never scanned."""
    return dim <= _MAX_DIM and num_samples >= _MIN_SAMPLES


def neighbor_distances_along(
    samples: jax.Array, queries: jax.Array, steps: jax.Array, ranks: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Search as `vpvae_jax.neighbors.neighbor_distances_along` describes."""
    return search_along(neighbor_distances, samples, queries, steps, ranks)


def neighbor_distances(samples: jax.Array, queries: jax.Array, ranks: tuple[int, ...]) -> jax.Array:
    """Search as `vpvae_jax.neighbors.neighbor_distances` describes.

    Avoid when: d is above 5 or there are few samples, where `brute_force` does less work for the same result.
    """
    tiles = _sort_into_tiles(samples)
    num_tiles, tile, dim = tiles.points.shape
    per_round = min(num_tiles, _TILES_PER_ROUND)
    num_kept = max(ranks)
    columns = jnp.array([rank - 1 for rank in ranks])

    def search(chunk: jax.Array) -> jax.Array:
        rows = jnp.arange(chunk.shape[0])[:, None]

        def squared_to_boxes(x):
            q = chunk[:, x, None]
            return jnp.maximum(jnp.maximum(tiles.lower[:, x] - q, q - tiles.upper[:, x]), 0.0) ** 2

        def unfinished(carry):
            gaps, smallest = carry
            return jnp.any(gaps.min(axis=1) < smallest[:, -1] * (1 + _ROUNDING))

        def scan(carry):
            gaps, smallest = carry
            negated, picked = jax.lax.top_k(-gaps, per_round)
            points = tiles.points[picked].reshape(chunk.shape[0], per_round * tile, dim)
            squared = sum((points[:, :, x] - chunk[:, x, None]) ** 2 for x in range(dim))
            # Where few boxes are left, boxes of earlier rounds are picked again.
            squared = jnp.where(jnp.repeat(jnp.isinf(negated), tile, axis=1), jnp.inf, squared)
            smallest = -jax.lax.top_k(-jnp.concatenate([smallest, squared], axis=1), num_kept)[0]
            return gaps.at[rows, picked].set(jnp.inf), smallest

        start = (
            sum(squared_to_boxes(x) for x in range(dim)),
            jnp.full((chunk.shape[0], num_kept), jnp.inf, jnp.float32),
        )
        _, smallest = jax.lax.while_loop(unfinished, scan, varying_like(start, samples, chunk))
        return nan_where_not_finite(chunk, jnp.sqrt(smallest[:, columns]))

    return map_queries(search, queries, num_tiles + per_round * tile * (dim + 2))


def _sort_into_tiles(samples: jax.Array) -> _Tiles:
    """Cut the samples into slabs of equal numbers along the first dimension, then each slab along the next, and so on.

    Source: Leutenegger, Lopez & Edgington 1997 (sort-tile-recursive packing).
    """
    num_samples, dim = samples.shape
    num_left = -(-num_samples // _TILE)
    slabs = []
    for x in range(dim):
        slabs.append(math.ceil(num_left ** (1 / (dim - x)) - 1e-9))
        num_left = -(-num_left // slabs[-1])
    num_tiles = math.prod(slabs)
    points = jnp.pad(samples, ((0, num_tiles * _TILE - num_samples), (0, 0)), constant_values=jnp.inf)
    for x in range(dim):
        points = points.reshape(math.prod(slabs[:x]), -1, dim)
        points = jnp.take_along_axis(points, jnp.argsort(points[:, :, x], axis=1)[:, :, None], axis=1)
    points = points.reshape(num_tiles, _TILE, dim)
    return _Tiles(points, points.min(axis=1), jnp.where(jnp.isinf(points), -jnp.inf, points).max(axis=1))
