"""Exact nearest neighbours: the only hot kernel of the sampler, one interface for every backend.

`cpu.tree` (a k-d tree on the host) serves CPUs. XLA serves every other platform: `xla.tiles` (spatially sorted) where
that prunes, `xla.brute_force` elsewhere. The choice is made when a program is lowered for its platform, so callers
never see it. Where a mesh is set (`jax.set_mesh`), its devices share the queries. Another backend is another module
that follows `backend.Backend`, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vpvae_jax.neighbors.backend import Backend
from vpvae_jax.neighbors.cpu import tree
from vpvae_jax.neighbors.sharding import share_rows
from vpvae_jax.neighbors.xla import brute_force, tiles

_CPU: Backend = tree


def neighbor_distances(samples: jax.Array, queries: jax.Array, ranks: Sequence[int]) -> jax.Array:
    """Measure the Euclidean distance from each query to its m-th nearest sample, for every m in `ranks`.

    A sample equal to the query counts as a neighbour at distance 0. No gradient flows through the search.

    Args:
        samples: `(num_samples, d)` finite points, any float dtype; computed in float32.
        queries: `(num_queries, d)` points. A query that is not finite gets NaN.
        ranks: neighbour ranks, 1 for the nearest; static.

    Returns:
        `(num_queries, len(ranks))` float32 distances, columns in the order of `ranks`.

    Raises:
        ValueError: shapes that do not match, no ranks, or a rank outside 1..num_samples.

    Source: D_m(z|S) of arXiv 2602.17133, section 3.
    """
    samples, queries = _prepare(samples, queries)
    ranks = _check_ranks(ranks, samples.shape[0])
    return _search(lambda backend, s, q: backend.neighbor_distances(s, q, ranks), samples, queries)


def neighbor_distances_along(
    samples: jax.Array, queries: jax.Array, steps: jax.Array, ranks: Sequence[int]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Measure `neighbor_distances` at each query and at `query + D * step`, D being a distance of that query.

    One call instead of two that would each pass through the host: a Metropolis-Hastings step needs both.

    Args:
        samples: see `neighbor_distances`.
        queries: see `neighbor_distances`.
        steps: `(num_queries, d)`.
        ranks: see `neighbor_distances`; the last one gives D.

    Returns:
        distances: `(num_queries, len(ranks))` float32.
        moved: `(num_queries, d)` float32, the points one step away.
        moved_distances: `(num_queries, len(ranks))` float32.

    Raises:
        ValueError: as `neighbor_distances`.
    """
    samples, queries = _prepare(samples, queries)
    _, steps = _prepare(samples, steps)
    ranks = _check_ranks(ranks, samples.shape[0])
    return _search(
        lambda backend, s, q, steps: backend.neighbor_distances_along(s, q, steps, ranks), samples, queries, steps
    )


def nearest(samples: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the nearest sample of each query: its index and its Euclidean distance.

    Args:
        samples: `(num_samples, d)` finite points.
        queries: `(num_queries, d)` points. A query that is not finite gets index 0 and distance NaN.

    Returns:
        indices: `(num_queries,)` int32.
        distances: `(num_queries,)` float32.

    Raises:
        ValueError: shapes that do not match.
    """
    samples, queries = _prepare(samples, queries)
    return _search(lambda backend, s, q: backend.nearest(s, q), samples, queries)


def neighbor_at_rank(samples: jax.Array, queries: jax.Array, ranks: jax.Array, max_rank: int) -> jax.Array:
    """Find, for each query, the sample that is its neighbour of the query's own rank.

    Args:
        samples: `(num_samples, d)` finite points.
        queries: `(num_queries, d)` points. A query that is not finite gets index 0.
        ranks: `(num_queries,)` whole numbers in 1..max_rank, 1 for the nearest.
        max_rank: highest rank, static.

    Returns:
        `(num_queries,)` int32 indices.

    Raises:
        ValueError: shapes that do not match, or max_rank outside 1..num_samples.
    """
    samples, queries = _prepare(samples, queries)
    _check_rank(max_rank, samples.shape[0])
    ranks = jnp.clip(ranks.astype(jnp.int32), 1, max_rank)
    return _search(lambda backend, s, q, r: backend.neighbor_at_rank(s, q, r, max_rank), samples, queries, ranks)


def _search(function: Callable, samples: jax.Array, *rows: jax.Array) -> Any:
    """Call `function(backend, samples, *rows)` with the backend of the platform, the rows shared by the devices."""

    def on_cpu(samples, *rows):
        return function(_CPU, samples, *rows)

    def elsewhere(samples, *rows):
        backend: Backend = tiles if tiles.prunes(*samples.shape) else brute_force
        return function(backend, samples, *rows)

    def search(samples, *rows):
        return jax.lax.platform_dependent(samples, *rows, cpu=on_cpu, default=elsewhere)

    return share_rows(search, samples, *rows)


def _check_ranks(ranks: Sequence[int], num_samples: int) -> tuple[int, ...]:
    ranks = tuple(int(rank) for rank in ranks)
    if not ranks:
        raise ValueError("no neighbour ranks were given: pass at least one, such as ranks=(8, 64)")
    for rank in ranks:
        _check_rank(rank, num_samples)
    return ranks


def _check_rank(rank: int, num_samples: int) -> None:
    if not 1 <= rank <= num_samples:
        raise ValueError(
            f"neighbour rank {rank} does not exist among {num_samples} samples: use ranks 1..{num_samples}"
        )


def _prepare(samples: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Check the shapes, drop the gradient, cast to float32."""
    samples, queries = jnp.asarray(samples), jnp.asarray(queries)
    if samples.ndim != 2 or queries.ndim != 2 or samples.shape[1] != queries.shape[1]:
        raise ValueError(
            f"samples {samples.shape} and queries {queries.shape} do not match: "
            f"expected (num_samples, d) and (num_queries, d)"
        )
    if samples.shape[1] == 0:
        raise ValueError(f"samples {samples.shape} have no dimensions: expected (num_samples, d) with d at least 1")
    if samples.shape[0] == 0:
        raise ValueError("there are no samples to search: pass at least one")
    float32 = (jax.lax.stop_gradient(array).astype(jnp.float32) for array in (samples, queries))
    return tuple(float32)  # type: ignore[return-value]
