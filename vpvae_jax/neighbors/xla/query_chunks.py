"""Search many queries in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

MAX_ELEMENTS = 2**24  # numbers that a chunk holds at a time, about: 64 MiB of float32


def map_queries(search: Callable, queries: Any, elements_per_query: int) -> Any:
    """Apply `search` to the queries in chunks, so that about `MAX_ELEMENTS` numbers exist at a time.

    Args:
        search: takes a chunk of the queries and returns arrays with as many rows.
        queries: a tree of arrays with the same number of rows.
        elements_per_query: numbers that `search` holds for each query.

    Returns:
        The tree that `search` returns, for all queries.
    """
    num_queries = jax.tree.leaves(queries)[0].shape[0]
    size = max(1, min(num_queries, MAX_ELEMENTS // elements_per_query))
    num_chunks = -(-num_queries // size)

    def chunked(array):
        padded = jnp.pad(array, ((0, num_chunks * size - num_queries), *[(0, 0)] * (array.ndim - 1)))
        # A chunk takes every num_chunks-th query: if queries are sharded over devices, each chunk is too, and all
        # devices work.
        return padded.reshape(size, num_chunks, *array.shape[1:]).swapaxes(0, 1)

    found = jax.lax.map(search, jax.tree.map(chunked, queries))
    return jax.tree.map(lambda t: t.swapaxes(0, 1).reshape(num_chunks * size, *t.shape[2:])[:num_queries], found)


def search_along(
    neighbor_distances: Callable, samples: jax.Array, queries: jax.Array, steps: jax.Array, ranks: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Implement `neighbor_distances_along` by two searches."""
    distances = neighbor_distances(samples, queries, ranks)
    moved = queries + distances[:, -1:] * steps
    return distances, moved, neighbor_distances(samples, moved, ranks)
