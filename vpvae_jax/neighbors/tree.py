"""Nearest neighbours with scipy's k-d tree on the host: the CPU backend."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from scipy.spatial import cKDTree


def neighbor_distances(samples: jax.Array, queries: jax.Array, ranks: tuple[int, ...]) -> jax.Array:
    """See `vpvae_jax.neighbors.neighbor_distances`; distances are computed in float64 and rounded once."""

    def search(samples, queries):
        distances, _ = _query(samples, queries, list(ranks))
        return (distances,)

    shapes = (jax.ShapeDtypeStruct((queries.shape[0], len(ranks)), jnp.float32),)
    return _on_host(search, shapes, samples, queries)[0]


def nearest(samples: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """See `vpvae_jax.neighbors.nearest`."""

    def search(samples, queries):
        distances, indices = _query(samples, queries, [1])
        return indices[:, 0], distances[:, 0]

    num = queries.shape[0]
    shapes = (jax.ShapeDtypeStruct((num,), jnp.int32), jax.ShapeDtypeStruct((num,), jnp.float32))
    indices, distances = _on_host(search, shapes, samples, queries)
    return indices, distances


def neighbor_at_rank(samples: jax.Array, queries: jax.Array, ranks: jax.Array, max_rank: int) -> jax.Array:
    """See `vpvae_jax.neighbors.neighbor_at_rank`."""

    def search(samples, queries, ranks):
        _, indices = _query(samples, queries, list(range(1, max_rank + 1)))
        return (np.take_along_axis(indices, ranks[:, None] - 1, axis=1)[:, 0],)

    shapes = (jax.ShapeDtypeStruct((queries.shape[0],), jnp.int32),)
    return _on_host(search, shapes, samples, queries, ranks)[0]


def _on_host(search: Callable, shapes: tuple[jax.ShapeDtypeStruct, ...], *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Call a numpy function from a compiled program; what it returns is cast to the types of `shapes`.

    `jax.pure_callback` would first copy the arguments in a thread of XLA's pool, which on one core may be the very
    thread that waits for the callback (jax-ml/jax issue 24255): a run stood still for ever. Buffers are read in place.
    """

    def read_and_write(context, results, *buffers):
        del context
        for result, values in zip(results, search(*map(np.asarray, buffers)), strict=True):
            np.asarray(result)[...] = values

    return buffer_callback(read_and_write, shapes, vmap_method="sequential")(*arrays)


def _query(samples: np.ndarray, queries: np.ndarray, ranks: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Query the tree; rows that are not finite come back as NaN and index 0 instead of an exception inside XLA."""
    distances = np.full((len(queries), len(ranks)), np.nan)
    indices = np.zeros((len(queries), len(ranks)), np.int64)
    finite = np.isfinite(queries).all(axis=1)
    if np.isfinite(samples).all() and finite.any():
        # The build for the last samples is kept: both searches of a Metropolis-Hastings step share it.
        distances[finite], indices[finite] = _tree_of(samples).query(queries[finite], k=ranks, workers=-1)
    return distances, indices


_last_tree: tuple[np.ndarray, cKDTree] | None = None


def _tree_of(samples: np.ndarray) -> cKDTree:
    """The tree of `samples`, kept for as long as the same values are asked for (compared exactly)."""
    global _last_tree
    last = _last_tree  # one read: another thread may replace it meanwhile
    if last is None or not np.array_equal(last[0], samples):
        last = (samples.copy(), cKDTree(samples))
        _last_tree = last
    return last[1]
