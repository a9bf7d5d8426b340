"""A k-d tree that follows points of which a few change at a time: exact order statistics of distances, on CPU cores.

The kernels are compiled by numba and release the GIL. What makes them fast for the sampler:

- the index is kept: only points that differ from the last call leave and enter, instead of a build at every step;
- nodes have 16 children and leaves 64 slots, laid out by coordinate, so that one vector instruction serves 16 boxes or
  points;
- queries are answered in the order of the leaves they fall into, each starting from the radius of the one before;
- only the ranks asked for are selected, nothing is sorted.

Distances are float32 throughout: a box is never farther than a point in it, in float32 too, since each operation rounds
monotonically and both sum in the same order. So pruning loses nothing.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from typing import NamedTuple

import numba
import numpy as np

_WIDTH = 16  # children of a node
_INDEX_BITS = _WIDTH - 1
_CAPACITY = 64  # slots of a leaf
_MAX_FILL = 48  # points of a leaf after a build; the free slots take the points that come before the next
_MAX_LEVELS = 8  # 16^8 leaves
_MAX_CHANGED = 0.25  # share of the points; if more differ a build is faster than moving them
_MAX_DRIFT = 0.5  # share of the points moved since the last build, whose boxes have grown without need
_MIN_CHUNK = 128  # queries that are worth a thread
_NO_BOUND = np.float32(np.finfo(np.float32).max)  # not inf: free slots are infinitely far


def _jit(function):
    """Compile at the first call, for this and later processes."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no directory for the cache can be written
        return numba.njit(nogil=True)(function)


class _Nodes(NamedTuple):
    """The tree. Leaf i covers the i-th of `2^depth` parts; its ancestor j levels up is node `i // 16^j` there."""

    points: np.ndarray  # (num_leaves, d, _CAPACITY) float32, inf in free slots
    ids: np.ndarray  # (num_leaves, _CAPACITY) int32, row of each point
    counts: np.ndarray  # (num_leaves,) int32, slots in use, the first ones
    slots: np.ndarray  # (n,) int32, where a row is: leaf * _CAPACITY + slot
    split_dims: np.ndarray  # (num_leaves - 1,) int32, binary splits in heap order
    split_values: np.ndarray  # (num_leaves - 1,) float32
    lower: np.ndarray  # (num_nodes, d, _WIDTH) float32, corners of the children's boxes
    upper: np.ndarray  # (num_nodes, d, _WIDTH) float32
    level_starts: np.ndarray  # (num_levels,) int64, first node of each level, the root's first


class KDTree:
    """Exact neighbours among points that change a little at a time. Not for use by several threads at once."""

    def __init__(self, points: np.ndarray):
        """Build the tree.

        Args:
            points: `(n, d)` finite float32, n at least 1; copied.
        """
        self._points = np.array(points, np.float32, order="C")
        self._build()

    def update(self, points: np.ndarray) -> None:
        """Follow to `points`, finite and of the shape of those before; cheap if few rows differ.

        Raises:
            ValueError: another shape.
        """
        if points.shape != self._points.shape:
            raise ValueError(f"the tree holds points of shape {self._points.shape} but got {points.shape}")
        points = np.ascontiguousarray(points, np.float32)
        max_changed = int(_MAX_CHANGED * len(points))
        changed = _differing_rows(self._points.view(np.int32), points.view(np.int32), max_changed)
        self._num_moved += len(changed)
        has_room = len(changed) <= max_changed and _move(self._nodes, self._points, points, changed)
        if not has_room or self._num_moved > _MAX_DRIFT * len(points):
            self._points[...] = points
            self._build()

    def query(
        self, queries: np.ndarray, ranks: np.ndarray, *, by_index: bool = False, approximate: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours of each query.

        Args:
            queries: `(num_queries, d)` float32.
            ranks: `(num_queries, r)` or broadcast to it, ascending in each row, 1 for the nearest.
            by_index: of equally far points the one with the lower index comes first. Without it any may come.
            approximate: relative error that a distance may have; 0 for none.

        Returns:
            distances: `(num_queries, r)` float32; NaN for a query that is not finite.
            indices: `(num_queries, r)` int32; 0 for a query that is not finite.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        num_queries = len(queries)
        shape = (num_queries, np.shape(ranks)[-1])
        ranks = np.broadcast_to(np.asarray(ranks, np.int64), shape)
        distances, indices = np.empty(shape, np.float32), np.empty(shape, np.int32)
        leaves = np.empty(num_queries, np.int32)
        share = (1.0 + approximate) ** -2  # squared distances at which a box may be left out, of the bound
        _in_chunks(num_queries, lambda start, stop: _route(self._nodes, queries, start, stop, leaves))
        order = _order_of(leaves, len(self._nodes.counts))
        _in_chunks(
            num_queries,
            lambda start, stop: _search(
                self._nodes, queries, order[start:stop], ranks, by_index, np.float32(share), distances, indices
            ),
        )
        return distances, indices

    def _build(self) -> None:
        num_points, dim = self._points.shape
        depth = 0
        while num_points > _MAX_FILL << depth:
            depth += 1
        num_leaves = 1 << depth
        num_levels = max(1, -(-depth // 4))
        sizes = [-(-num_leaves // _WIDTH ** (num_levels - level)) for level in range(num_levels)]
        self._nodes = _Nodes(
            points=np.full((num_leaves, dim, _CAPACITY), np.inf, np.float32),
            ids=np.zeros((num_leaves, _CAPACITY), np.int32),
            counts=np.zeros(num_leaves, np.int32),
            slots=np.zeros(num_points, np.int32),
            split_dims=np.zeros(num_leaves - 1, np.int32),
            split_values=np.zeros(num_leaves - 1, np.float32),
            lower=np.full((sum(sizes), dim, _WIDTH), np.inf, np.float32),
            upper=np.full((sum(sizes), dim, _WIDTH), -np.inf, np.float32),
            level_starts=np.cumsum([0, *sizes[:-1]]),
        )
        _fill(self._nodes, self._points.copy(), np.arange(num_points, dtype=np.int32))
        self._num_moved = 0


def num_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(num_workers(), thread_name_prefix="kd_tree")


def _in_chunks(num_queries: int, work) -> None:
    """`work(start, stop)` over all queries, on all cores if there are enough."""
    num_chunks = min(num_queries // _MIN_CHUNK, 4 * num_workers())  # several a core: they differ in cost
    if num_chunks < 2:
        work(0, num_queries)
        return
    edges = [num_queries * i // num_chunks for i in range(num_chunks + 1)]
    list(_pool().map(work, edges[:-1], edges[1:]))


@_jit
def _differing_rows(old, new, limit):
    """Rows whose bits differ; more than `limit` if there are more, but not all of them."""
    rows = np.empty(limit + 1, np.int64)
    count = 0
    num_rows, dim = old.shape
    for i in range(num_rows):
        differs = 0
        for x in range(dim):
            differs |= old[i, x] ^ new[i, x]
        if differs != 0:
            rows[count] = i
            count += 1
            if count > limit:
                break
    return rows[:count]


@_jit
def _fill(nodes, rows, order):
    """Sort `rows` and their numbers `order` into the leaves, by binary splits at the median of the widest dimension."""
    num_points, dim = rows.shape
    num_leaves = len(nodes.counts)
    stack = np.empty((64, 3), np.int64)
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, 0, num_points
    top = 1
    while top > 0:
        top -= 1
        node, start, stop = stack[top, 0], stack[top, 1], stack[top, 2]
        if node >= num_leaves - 1:
            leaf = node - (num_leaves - 1)
            for i in range(start, stop):
                _put(nodes, leaf, rows[i], order[i])
            continue
        widest, width = 0, np.float32(-1)
        for x in range(dim):
            low, high = np.float32(np.inf), np.float32(-np.inf)
            for i in range(start, stop):
                low, high = min(low, rows[i, x]), max(high, rows[i, x])
            if high - low > width:
                widest, width = x, high - low
        middle = (start + stop) // 2
        _select_rows(rows, order, start, stop, middle, widest)
        nodes.split_dims[node], nodes.split_values[node] = widest, rows[middle, widest]
        stack[top, 0], stack[top, 1], stack[top, 2] = 2 * node + 1, start, middle
        stack[top + 1, 0], stack[top + 1, 1], stack[top + 1, 2] = 2 * node + 2, middle, stop
        top += 2


@_jit
def _select_rows(rows, order, start, stop, nth, x):
    """Hoare's selection: the row that is nth by coordinate x in its place, none larger before, none smaller after."""
    low, high = start, stop - 1
    dim = rows.shape[1]
    while low < high:
        a, b, c = rows[low, x], rows[(low + high) // 2, x], rows[high, x]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while rows[i, x] < pivot:
                i += 1
            while rows[j, x] > pivot:
                j -= 1
            if i <= j:
                for y in range(dim):
                    rows[i, y], rows[j, y] = rows[j, y], rows[i, y]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if nth <= j:
            high = j
        elif nth >= i:
            low = i
        else:
            return


@_jit
def _put(nodes, leaf, point, row):
    """Add a point to a leaf with room; all boxes above grow around it."""
    slot = nodes.counts[leaf]
    nodes.counts[leaf] = slot + 1
    nodes.ids[leaf, slot] = row
    nodes.slots[row] = leaf * _CAPACITY + slot
    for x in range(len(point)):
        nodes.points[leaf, x, slot] = point[x]
    child = leaf
    for level in range(len(nodes.level_starts) - 1, -1, -1):
        node = nodes.level_starts[level] + child // _WIDTH
        place = child % _WIDTH
        for x in range(len(point)):
            nodes.lower[node, x, place] = min(nodes.lower[node, x, place], point[x])
            nodes.upper[node, x, place] = max(nodes.upper[node, x, place], point[x])
        child //= _WIDTH


@_jit
def _take(nodes, row):
    """Remove a point from its leaf, whose last one fills the gap."""
    leaf, slot = nodes.slots[row] // _CAPACITY, nodes.slots[row] % _CAPACITY
    last = nodes.counts[leaf] - 1
    nodes.counts[leaf] = last
    for x in range(nodes.points.shape[1]):
        nodes.points[leaf, x, slot] = nodes.points[leaf, x, last]
        nodes.points[leaf, x, last] = np.inf
    nodes.ids[leaf, slot] = nodes.ids[leaf, last]
    nodes.slots[nodes.ids[leaf, slot]] = leaf * _CAPACITY + slot


@_jit
def _move(nodes, old, new, rows):
    """Replace rows in the tree and in `old`; False, with the tree in disorder, once a leaf has no room."""
    for row in rows:
        _take(nodes, row)
    for row in rows:
        leaf = _leaf_of(nodes, new[row])
        if nodes.counts[leaf] == _CAPACITY:
            return False
        old[row] = new[row]
        _put(nodes, leaf, new[row], row)
    return True


@_jit
def _leaf_of(nodes, point):
    num_inner = len(nodes.split_dims)
    node = 0
    while node < num_inner:
        node = 2 * node + (2 if point[nodes.split_dims[node]] >= nodes.split_values[node] else 1)
    return node - num_inner


@_jit
def _route(nodes, queries, start, stop, leaves):
    for i in range(start, stop):
        leaves[i] = _leaf_of(nodes, queries[i])


@_jit
def _order_of(leaves, num_leaves):
    """Queries in the order of their leaves, which is an order in space (counting sort)."""
    starts = np.zeros(num_leaves + 1, np.int64)
    for leaf in leaves:
        starts[leaf + 1] += 1
    for leaf in range(num_leaves):
        starts[leaf + 1] += starts[leaf]
    order = np.empty(len(leaves), np.int32)
    for i in range(len(leaves)):
        order[starts[leaves[i]]] = i
        starts[leaves[i]] += 1
    return order


@_jit
def _select(keys, count, nth):
    """Hoare's selection among the first `count` keys: the nth in its place, none larger before."""
    low, high = 0, count - 1
    while low < high:
        a, b, c = keys[low], keys[(low + high) // 2], keys[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if nth <= j:
            high = j
        elif nth >= i:
            low = i
        else:
            break
    return keys[nth]


@_jit
def _search(nodes, queries, order, ranks, by_index, share, distances, indices):
    """Answer the queries of `order`.

    A candidate is one int64, the bits of its squared distance above its row: the bits of floats that are not negative
    sort as the floats do, so one selection serves both.
    """
    dim = queries.shape[1]
    num_levels, num_ranks = len(nodes.level_starts), ranks.shape[1]
    zero, infinity = np.float32(0), np.float32(np.inf)
    max_kept = 1
    for i in order:
        max_kept = max(max_kept, ranks[i, num_ranks - 1])
    candidates = np.empty(2 * max_kept + _CAPACITY, np.int64)
    # Two views of the same squares, as floats and as bits; likewise for one number.
    squared = np.empty(_CAPACITY, np.float32)
    squared_bits = squared.view(np.int32)
    number = np.empty(1, np.float32)
    number_bits = number.view(np.int32)
    gaps = np.empty(_WIDTH, np.float32)
    gap_bits = gaps.view(np.int32)
    # Of the nodes on the way down: which they are, and their children not yet visited, each one int32: its box's
    # squared distance with the number of the child in the lowest bits, where it lowers the bound by at most 2e-6.
    path = np.zeros(_MAX_LEVELS, np.int64)
    pending = np.empty((_MAX_LEVELS, _WIDTH), np.int32)
    visited = np.int32(0x7FFFFFFF)
    previous = np.zeros(dim, np.float32)
    previous_distance = infinity
    for i in order:
        query = queries[i]
        moved, is_finite = zero, True
        for x in range(dim):
            moved += (query[x] - previous[x]) ** 2
            is_finite &= np.isfinite(query[x])
        if not is_finite:
            distances[i], indices[i] = np.nan, 0
            continue
        num_kept = ranks[i, num_ranks - 1]
        # The ball around the previous query held as many, and lies in a ball around this one; with room for rounding.
        bound = min((previous_distance + np.sqrt(moved)) ** 2 * np.float32(1.00001), _NO_BOUND)
        while True:
            count, level = 0, 0
            path[0] = 0
            is_new = True
            while level >= 0:
                if is_new:
                    node = nodes.level_starts[level] + path[level]
                    gaps[:] = zero
                    for x in range(dim):
                        for place in range(_WIDTH):
                            gap = max(
                                max(nodes.lower[node, x, place] - query[x], query[x] - nodes.upper[node, x, place]),
                                zero,
                            )
                            gaps[place] += gap * gap
                    for place in range(_WIDTH):
                        pending[level, place] = (gap_bits[place] & ~_INDEX_BITS) | place
                nearest = visited
                for place in range(_WIDTH):
                    nearest = min(nearest, pending[level, place])
                number_bits[0] = nearest & ~_INDEX_BITS
                if not (number[0] < bound * share or (by_index and number[0] == bound)):
                    level -= 1
                    is_new = False
                    continue
                picked = nearest & _INDEX_BITS
                pending[level, picked] = visited
                child = path[level] * _WIDTH + picked
                is_new = level < num_levels - 1
                if is_new:
                    level += 1
                    path[level] = child
                    continue
                squared[:] = zero
                for x in range(dim):
                    for slot in range(_CAPACITY):
                        difference = nodes.points[child, x, slot] - query[x]
                        squared[slot] += difference * difference
                num_closer = 0
                for slot in range(_CAPACITY):
                    num_closer += squared[slot] <= bound
                if num_closer == 0:
                    continue
                for slot in range(_CAPACITY):
                    if squared[slot] < bound or (by_index and squared[slot] == bound):
                        candidates[count] = (np.int64(squared_bits[slot]) << 32) | nodes.ids[child, slot]
                        count += 1
                if count >= 2 * num_kept:
                    number_bits[0] = _select(candidates, count, num_kept - 1) >> 32
                    bound = number[0]
                    count = num_kept
            if count >= num_kept or bound == _NO_BOUND:
                break
            bound = _NO_BOUND
        previous[:] = query
        previous_distance = infinity
        for r in range(num_ranks - 1, -1, -1):
            if count < ranks[i, r]:  # distances beyond float32
                distances[i, r], indices[i, r] = infinity, 0
                continue
            chosen = _select(candidates, count, ranks[i, r] - 1)
            count = ranks[i, r]
            number_bits[0] = chosen >> 32
            distances[i, r] = np.sqrt(number[0])
            indices[i, r] = chosen & 0xFFFFFFFF
            if r == num_ranks - 1:
                previous_distance = distances[i, r]
