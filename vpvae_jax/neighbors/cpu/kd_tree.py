"""A k-d tree for points that change a few at a time: exact order statistics of distances, on CPU cores.

The kernels are compiled by numba and release the GIL. What makes them fast for the sampler:

- the index is kept: only points that differ from the last call are removed and inserted. The tree is built again when
  a leaf is full or half of the points have moved (16 builds in 200 steps with the settings of the photograph demo);
- nodes have 16 children and leaves 128 slots, laid out by coordinate, so that one vector instruction serves 16 boxes or
  points;
- queries are sorted by leaf, and each search starts from the radius that the previous one found;
- only the ranks asked for are selected, nothing is sorted.

Distances are float32 throughout. A box is never farther than a point in it, in float32 too: each operation rounds
monotonically and both sums have the same order. So pruning loses nothing.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os

import numpy as np

from vpvae_jax.neighbors.cpu.kd_kernels import (
    CAPACITY,
    MAX_FILL,
    WIDTH,
    Nodes,
    differing_rows,
    fill,
    move,
    order_of,
    route,
    search,
)

_MAX_CHANGED = 0.25  # share of the points; if more differ, a build is faster than moving them
_MAX_DRIFT = 0.5  # share of the points; if more have moved since the last build, the boxes are too large
_MIN_CHUNK = 128  # queries that are worth a thread when they are searched
_MIN_ROUTED = 8192  # queries that are worth a thread when their leaves are found


class KDTree:
    """An index of points that change a few at a time, for exact search. One thread at a time may use it."""

    def __init__(self, points: np.ndarray):
        """Build the tree.

        Args:
            points: `(n, d)` finite float32, n at least 1; copied.
        """
        self._points = np.array(points, np.float32, order="C")
        self._build()

    def update(self, points: np.ndarray) -> bool:
        """Replace the points; cheap if few rows differ from the previous ones.

        Args:
            points: `(n, d)` float32, the shape that the tree was built with.

        Returns:
            Whether all points are finite. If not, the tree keeps the previous ones.

        Raises:
            ValueError: another shape.
        """
        if points.shape != self._points.shape:
            raise ValueError(
                f"the tree holds points of shape {self._points.shape} but got {points.shape}: build a new KDTree"
            )
        points = np.ascontiguousarray(points, np.float32)
        max_changed = int(_MAX_CHANGED * len(points))
        changed = differing_rows(self._points.view(np.int32), points.view(np.int32), max_changed)
        are_few = len(changed) <= max_changed
        if not np.isfinite(points[changed] if are_few else points).all():
            return False
        self._num_moved += len(changed)
        has_room = are_few and move(self._nodes, self._points, points, changed)
        if not has_room or self._num_moved > _MAX_DRIFT * len(points):
            self._points[...] = points
            self._build()
        return True

    def distances(self, queries: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Measure the distance from each query to its m-th nearest point, for every m in its ranks.

        Args:
            queries: `(num_queries, d)` float32.
            ranks: `(num_queries, r)` or broadcast to it, ascending in each row, 1 for the nearest.

        Returns:
            `(num_queries, r)` float32; NaN for a query that is not finite.
        """
        return self._query(queries, queries, 0, ranks)[0][:, 0]

    def distances_along(
        self, queries: np.ndarray, steps: np.ndarray, scale: int, ranks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Measure `distances` at each query and again one step away, with the step in units of one of its distances.

        Args:
            queries: see `distances`.
            steps: `(num_queries, d)` float32.
            scale: column of the distance that is the unit of the steps.
            ranks: see `distances`.

        Returns:
            distances: see `distances`.
            moved: `(num_queries, d)` float32, `queries + distances[:, [scale]] * steps`.
            moved_distances: `distances` at `moved`.
        """
        distances, _, moved = self._query(queries, steps, scale, ranks, num_stages=2)
        return distances[:, 0], moved, distances[:, 1]

    def neighbors(self, queries: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the m-th nearest point: its distance and its row. Of equally far points the first row is the nearer.

        Args:
            queries: see `distances`.
            ranks: see `distances`.

        Returns:
            distances: see `distances`.
            rows: `(num_queries, r)` int32; 0 for a query that is not finite.
        """
        distances, rows, _ = self._query(queries, queries, 0, ranks, by_index=True)
        return distances[:, 0], rows[:, 0]

    def _query(self, queries, steps, scale, ranks, *, num_stages=1, by_index=False):
        """Search all queries, on all cores; see `search`."""
        queries, steps = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(steps, np.float32)
        num_queries = len(queries)
        ranks = np.broadcast_to(np.asarray(ranks, np.int64), (num_queries, np.shape(ranks)[-1]))
        shape = (num_queries, num_stages, ranks.shape[1])
        distances, rows, moved = np.empty(shape, np.float32), np.zeros(shape, np.int32), np.empty_like(queries)
        leaves = np.empty(num_queries, np.int32)
        _in_chunks(num_queries, _MIN_ROUTED, lambda start, stop: route(self._nodes, queries, start, stop, leaves))
        order = order_of(leaves, len(self._nodes.counts))
        _in_chunks(
            num_queries,
            _MIN_CHUNK,
            lambda start, stop: search(
                self._nodes, queries, steps, scale, order[start:stop], ranks, by_index, distances, rows, moved
            ),
        )
        return distances, rows, moved

    def _build(self) -> None:
        """Sort all points into new nodes."""
        num_points, dim = self._points.shape
        depth = 0
        while num_points > MAX_FILL << depth:
            depth += 1
        num_leaves = 1 << depth
        num_levels = max(1, -(-depth // 4))
        sizes = [-(-num_leaves // WIDTH ** (num_levels - level)) for level in range(num_levels)]
        self._nodes = Nodes(
            points=np.full((num_leaves, dim, CAPACITY), np.inf, np.float32),
            ids=np.zeros((num_leaves, CAPACITY), np.int32),
            counts=np.zeros(num_leaves, np.int32),
            slots=np.zeros(num_points, np.int32),
            split_dims=np.zeros(num_leaves - 1, np.int32),
            split_values=np.zeros(num_leaves - 1, np.float32),
            lower=np.full((sum(sizes), dim, WIDTH), np.inf, np.float32),
            upper=np.full((sum(sizes), dim, WIDTH), -np.inf, np.float32),
            level_starts=np.cumsum([0, *sizes[:-1]]),
        )
        fill(self._nodes, self._points.copy(), np.arange(num_points, dtype=np.int32))
        self._num_moved = 0


def _num_workers() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    """Start the threads at the first search."""
    return concurrent.futures.ThreadPoolExecutor(_num_workers(), thread_name_prefix="kd_tree")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork: a child that waited for them would hang
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _in_chunks(num_queries: int, min_chunk: int, work) -> None:
    """Call `work(start, stop)` for chunks of all queries, on all cores if there are enough queries."""
    num_chunks = min(num_queries // min_chunk, 4 * _num_workers())  # several a core, since their cost differs
    if num_chunks < 2:
        work(0, num_queries)
        return
    edges = [num_queries * i // num_chunks for i in range(num_chunks + 1)]
    try:
        futures = [_pool().submit(work, *edge) for edge in itertools.pairwise(edges)]
    except RuntimeError:  # the interpreter is shutting down and starts no threads
        work(0, num_queries)
        return
    for future in futures:
        future.result()
