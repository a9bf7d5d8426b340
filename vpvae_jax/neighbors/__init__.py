"""Exact nearest neighbours: the only hot kernel of the sampler, one function for every backend.

`tree` (a k-d tree on the host) serves CPUs; XLA serves every other platform, by `tiles` (spatially sorted) where that
prunes and by `brute_force` where not. Which of them runs is settled when the program is lowered for its platform, so a
caller never sees it. Where a mesh is set (`jax.set_mesh`), its devices share the queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vpvae_jax.neighbors import brute_force, tiles, tree

_MAX_APPROXIMATE = 10  # far beyond any use


def neighbor_distances(
    samples: jax.Array, queries: jax.Array, ranks: Sequence[int], *, approximate: float = 0.0
) -> jax.Array:
    """Euclidean distance from each query to its m-th nearest sample, for every m in `ranks`.

    A sample equal to the query counts as a neighbour at distance 0. No gradient flows through the search.

    Args:
        samples: `(num_samples, d)` finite points, any float dtype; computed in float32.
        queries: `(num_queries, d)` points. A query that is not finite gets NaN.
        ranks: neighbour ranks, 1 for the nearest; static.
        approximate: relative error that a distance may have: it lies between D_m and (1 + approximate) D_m. 0 is exact.
            Where in between depends on the order in which the samples came: only exact distances are the same in a run
            that was resumed.

    Returns:
        `(num_queries, len(ranks))` float32 distances, columns in the order of `ranks`.

    Raises:
        ValueError: shapes that do not match, no ranks, a rank outside 1..num_samples, or a negative error.

    Source: D_m(z|S) of arXiv 2602.17133, section 3.
    """
    samples, queries = _prepare(samples, queries)
    ranks = _check_ranks(ranks, samples.shape[0])
    check_approximate(approximate)
    return _on_every_device(
        lambda s, q: tree.neighbor_distances(s, q, ranks, approximate),
        lambda s, q: _in_xla(s, q, ranks, approximate),
        samples,
        queries,
    )


def neighbor_distances_along(
    samples: jax.Array, queries: jax.Array, steps: jax.Array, ranks: Sequence[int], *, approximate: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`neighbor_distances` at each query and at a point near it, `query + D * step`, D a distance of the query's own.

    One call where two would first go to a host and back: the second search of a Metropolis-Hastings step.

    Args:
        samples: see `neighbor_distances`.
        queries: see `neighbor_distances`.
        steps: `(num_queries, d)`.
        ranks: see `neighbor_distances`; the last one gives D.
        approximate: see `neighbor_distances`.

    Returns:
        distances: `(num_queries, len(ranks))` float32.
        moved: `(num_queries, d)` float32, the points near the queries.
        moved_distances: `(num_queries, len(ranks))` float32.

    Raises:
        ValueError: as `neighbor_distances`.
    """
    samples, queries = _prepare(samples, queries)
    _, steps = _prepare(samples, steps)
    ranks = _check_ranks(ranks, samples.shape[0])
    check_approximate(approximate)

    def in_xla(samples, queries, steps):
        distances = _in_xla(samples, queries, ranks, approximate)
        moved = queries + distances[:, -1:] * steps
        return distances, moved, _in_xla(samples, moved, ranks, approximate)

    return _on_every_device(
        lambda s, q, steps: tree.neighbor_distances_along(s, q, steps, ranks, approximate),
        in_xla,
        samples,
        queries,
        steps,
    )


def _in_xla(samples: jax.Array, queries: jax.Array, ranks: tuple[int, ...], approximate: float) -> jax.Array:
    num_samples, dim = samples.shape
    if dim <= tiles.MAX_DIM and num_samples >= tiles.MIN_SAMPLES:
        return tiles.neighbor_distances(samples, queries, ranks, approximate)
    return brute_force.neighbor_distances(samples, queries, ranks)


def nearest(samples: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index of and Euclidean distance to the nearest sample of each query.

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
    return _on_every_device(tree.nearest, brute_force.nearest, samples, queries)


def neighbor_at_rank(samples: jax.Array, queries: jax.Array, ranks: jax.Array, max_rank: int) -> jax.Array:
    """Index of the sample that is each query's own choice among its `max_rank` nearest.

    Args:
        samples: `(num_samples, d)` finite points.
        queries: `(num_queries, d)` points. A query that is not finite gets index 0.
        ranks: `(num_queries,)` whole numbers in 1..max_rank, 1 for the nearest.
        max_rank: highest rank, static.

    Returns:
        `(num_queries,)` int32.

    Raises:
        ValueError: shapes that do not match, or max_rank outside 1..num_samples.
    """
    samples, queries = _prepare(samples, queries)
    _check_rank(max_rank, samples.shape[0])
    return _on_every_device(
        lambda s, q, r: tree.neighbor_at_rank(s, q, r, max_rank),
        lambda s, q, r: brute_force.neighbor_at_rank(s, q, r, max_rank),
        samples,
        queries,
        jnp.clip(ranks.astype(jnp.int32), 1, max_rank),
    )


def _on_every_device(cpu: Callable, default: Callable, samples: jax.Array, *rows: jax.Array) -> Any:
    """Search by the function for the platform; where a mesh is set, each device for its share of the rows.

    Left to itself XLA brings together what devices hold of the rows, in every round of a search and before a callback.
    """

    def search(samples, *rows):
        return jax.lax.platform_dependent(samples, *rows, cpu=cpu, default=default)

    mesh = jax.sharding.get_abstract_mesh()
    axes = [n for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == jax.sharding.AxisType.Auto]
    size = math.prod(mesh.shape[name] for name in axes)
    if size == 1 or rows[0].shape[0] % size:
        return search(samples, *rows)
    cut = P(tuple(axes))
    return jax.shard_map(search, in_specs=(P(), *[cut] * len(rows)), out_specs=cut)(samples, *rows)


def check_approximate(approximate: float) -> None:
    """Raise ValueError for an error of a distance that is negative or means nothing."""
    if not 0 <= approximate <= _MAX_APPROXIMATE:
        raise ValueError(
            f"approximate={approximate}: expected the relative error that a distance may have, "
            f"0 (exact) to {_MAX_APPROXIMATE}"
        )


def _check_ranks(ranks: Sequence[int], num_samples: int) -> tuple[int, ...]:
    ranks = tuple(int(rank) for rank in ranks)
    if not ranks:
        raise ValueError("no neighbour ranks were asked for: pass at least one, such as ranks=(8, 64)")
    for rank in ranks:
        _check_rank(rank, num_samples)
    return ranks


def _check_rank(rank: int, num_samples: int) -> None:
    if not 1 <= rank <= num_samples:
        raise ValueError(
            f"neighbour rank {rank} does not exist among {num_samples} samples: use ranks 1..{num_samples}"
        )


def _prepare(samples: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
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
