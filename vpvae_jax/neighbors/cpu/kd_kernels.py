"""Compiled kernels of `kd_tree`: they move points between its nodes and search them.

One file on purpose: numba's cache watches the file of a kernel, not the files of the kernels that it calls.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numba
import numpy as np

WIDTH = 16  # children of a node
CAPACITY = 128  # slots of a leaf
MAX_FILL = 96  # points of a leaf after a build; the free slots take the points that come before the next
_CHILD_BITS = WIDTH - 1
_BLOCK = 512  # rows compared at a time
_MAX_LEVELS = 8  # 16^8 leaves
_TWO_OCTAVES = np.int32(2 << 23)  # in the bits of a float32, a factor of 4
_LARGEST_INT = np.int32(np.iinfo(np.int32).max)
_NO_BOUND = np.float32(np.finfo(np.float32).max)  # not inf: free slots are infinitely far


def _jit(function):
    """Compile at the first call, for this process and, where a cache can be written, for later ones."""
    try:
        kernel = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no directory for the cache is writable
        return numba.njit(nogil=True)(function)
    # The cache only saves time: a kernel that is compiled but cannot be stored, on a full disk, is used all the same.
    cache = getattr(kernel, "_cache", None)
    if cache is not None:
        cache.save_overload = _without_os_errors(cache.save_overload)
    return kernel


def _without_os_errors(save):
    def save_if_possible(*arguments):
        with contextlib.suppress(OSError):
            save(*arguments)

    return save_if_possible


class Nodes(NamedTuple):
    """The tree. Leaf i covers the i-th of `2^depth` parts; its ancestor j levels up is node `i // 16^j` there."""

    points: np.ndarray  # (num_leaves, d, CAPACITY) float32, inf in free slots
    ids: np.ndarray  # (num_leaves, CAPACITY) int32, row of each point
    counts: np.ndarray  # (num_leaves,) int32, slots in use, the first ones
    slots: np.ndarray  # (n,) int32, where a row is: leaf * CAPACITY + slot
    split_dims: np.ndarray  # (num_leaves - 1,) int32, binary splits in heap order
    split_values: np.ndarray  # (num_leaves - 1,) float32
    lower: np.ndarray  # (num_nodes, d, WIDTH) float32, corners of the children's boxes
    upper: np.ndarray  # (num_nodes, d, WIDTH) float32
    level_starts: np.ndarray  # (num_levels,) int64, first node of each level, the root's first


@_jit
def fill(nodes, rows, order):
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
    """Put the row that is nth by coordinate x in its place: none larger before it, none smaller after (Hoare)."""
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
    """Add a point to a leaf that has room, and extend the boxes above to hold it."""
    slot = nodes.counts[leaf]
    nodes.counts[leaf] = slot + 1
    nodes.ids[leaf, slot] = row
    nodes.slots[row] = leaf * CAPACITY + slot
    for x in range(len(point)):
        nodes.points[leaf, x, slot] = point[x]
    child = leaf
    for level in range(len(nodes.level_starts) - 1, -1, -1):
        node = nodes.level_starts[level] + child // WIDTH
        place = child % WIDTH
        for x in range(len(point)):
            nodes.lower[node, x, place] = min(nodes.lower[node, x, place], point[x])
            nodes.upper[node, x, place] = max(nodes.upper[node, x, place], point[x])
        child //= WIDTH


@_jit
def _take(nodes, row):
    """Remove a point from its leaf and fill the gap with the leaf's last point."""
    leaf, slot = nodes.slots[row] // CAPACITY, nodes.slots[row] % CAPACITY
    last = nodes.counts[leaf] - 1
    nodes.counts[leaf] = last
    for x in range(nodes.points.shape[1]):
        nodes.points[leaf, x, slot] = nodes.points[leaf, x, last]
        nodes.points[leaf, x, last] = np.inf
    nodes.ids[leaf, slot] = nodes.ids[leaf, last]
    nodes.slots[nodes.ids[leaf, slot]] = leaf * CAPACITY + slot


@_jit
def move(nodes, old, new, rows):
    """Replace rows in the tree and in `old`. False once a leaf has no room: the tree is then unusable until a build."""
    for row in rows:
        _take(nodes, row)
    for row in rows:
        leaf = _leaf_of(nodes, new[row])
        if nodes.counts[leaf] == CAPACITY:
            return False
        old[row] = new[row]
        _put(nodes, leaf, new[row], row)
    return True


@_jit
def _leaf_of(nodes, point):
    """Find the leaf of the part of space that the point is in."""
    num_inner = len(nodes.split_dims)
    node = 0
    while node < num_inner:
        node = 2 * node + (2 if point[nodes.split_dims[node]] >= nodes.split_values[node] else 1)
    return node - num_inner


@_jit
def differing_rows(old, new, limit):
    """List the rows whose bits differ; the list may end early once it is longer than `limit`."""
    rows = np.empty(limit + 1, np.int64)
    count = 0
    num_rows, dim = old.shape
    flat_old, flat_new = old.reshape(-1), new.reshape(-1)
    for start in range(0, num_rows, _BLOCK):
        stop = min(start + _BLOCK, num_rows)
        block_old, block_new = flat_old[start * dim : stop * dim], flat_new[start * dim : stop * dim]
        num_differing = 0
        for i in range(len(block_old)):  # vectorized: most blocks are unchanged
            num_differing += block_old[i] != block_new[i]
        if num_differing == 0:
            continue
        for row in range(start, stop):
            for x in range(dim):
                if old[row, x] != new[row, x]:
                    rows[count] = row
                    count += 1
                    break
            if count > limit:
                return rows
    return rows[:count]


@_jit
def route(nodes, queries, start, stop, leaves):
    """Find the leaf of each of the queries start..stop."""
    for i in range(start, stop):
        leaves[i] = _leaf_of(nodes, queries[i])


@_jit
def order_of(leaves, num_leaves):
    """Sort queries by their leaves, which is an order in space (counting sort)."""
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
def _nth_smallest(numbers, count, nth, high):
    """Find the nth smallest of the first `count` numbers, 1 for the smallest; they are the bits of floats in 0..high.

    By bisection: counting some hundred numbers takes a few vector instructions, where a partition mispredicts every
    other branch.
    """
    low = np.int32(max(high - _TWO_OCTAVES, 0))  # most likely below
    found = 0
    for i in range(count):
        found += numbers[i] <= low
    if found >= nth:
        low, high = np.int32(-1), low
    while high - low > 1:
        middle = np.int32(low + (high - low) // 2)
        found = 0
        for i in range(count):
            found += numbers[i] <= middle
        if found == nth:
            largest = np.int32(0)
            for i in range(count):
                largest = max(largest, numbers[i] if numbers[i] <= middle else np.int32(0))
            return largest
        if found < nth:
            low = middle
        else:
            high = middle
    return high


@_jit
def _last_row(numbers, rows, count, limit, num_kept):
    """Find the largest row to keep among those whose number is the limit, the `num_kept`-th smallest number."""
    num_ties = 0
    for i in range(count):
        num_kept -= numbers[i] < limit
        num_ties += numbers[i] == limit
    low, high = np.int32(-1), _LARGEST_INT
    if num_ties == 1:
        for i in range(count):
            low = max(low, rows[i] if numbers[i] == limit else np.int32(-1))
        return low
    while high - low > 1:
        middle = np.int32(low + (high - low) // 2)
        found = 0
        for i in range(count):
            found += (numbers[i] == limit) & (rows[i] <= middle)
        if found < num_kept:
            low = middle
        else:
            high = middle
    return high


@_jit
def _keep(numbers, rows, count, limit, num_kept):
    """Move the `num_kept` smallest numbers and their rows to the front; `limit` is the largest of them."""
    last_row = _last_row(numbers, rows, count, limit, num_kept)
    kept = 0
    for i in range(count):
        is_kept = numbers[i] < limit or (numbers[i] == limit and rows[i] <= last_row)
        numbers[kept], rows[kept] = numbers[i], rows[i]
        kept += is_kept
    return kept


@_jit
def _open(nodes, node, query, gaps, gap_bits, pending):
    """Measure the gap from the query to the box of each child of a node, see `search`."""
    for place in range(WIDTH):
        gaps[place] = 0
    for x in range(len(query)):
        at = query[x]
        for place in range(WIDTH):
            outside = max(nodes.lower[node, x, place] - at, at - nodes.upper[node, x, place])
            outside = max(outside, np.float32(0))
            gaps[place] += outside * outside
    for place in range(WIDTH):
        pending[place] = (gap_bits[place] & ~_CHILD_BITS) | place


@_jit
def _square(nodes, leaf, query, squared, used):
    """Square the distances from the query to the points of a leaf, in its first `used` slots."""
    for slot in range(used):
        squared[slot] = 0
    for x in range(len(query)):
        at = query[x]
        for slot in range(used):
            difference = nodes.points[leaf, x, slot] - at
            squared[slot] += difference * difference


@_jit
def search(nodes, queries, steps, scale, order, ranks, by_index, distances, rows, moved):
    """Search the queries of `order`, then search again from where a step moves each query.

    A step is scaled by the query's distance in column `scale`. The second dimension of `distances` is the number of
    searches, 1 or more; `moved` gets the position after the last step.

    Squared distances are kept as the bits of the float, an int32: they sort as the floats do, since none is negative.
    """
    num_stages, dim = distances.shape[1], queries.shape[1]
    num_levels, num_ranks = len(nodes.level_starts), ranks.shape[1]
    zero = np.float32(0)
    max_kept = 1
    for i in order:
        max_kept = max(max_kept, ranks[i, num_ranks - 1])
    found_bits = np.empty(2 * max_kept + CAPACITY, np.int32)
    found_rows = np.empty(2 * max_kept + CAPACITY, np.int32)
    squared = np.empty(CAPACITY, np.float32)
    squared_bits = squared.view(np.int32)
    gaps = np.empty(WIDTH, np.float32)
    gap_bits = gaps.view(np.int32)
    bound = np.empty(1, np.float32)
    bound_bits = bound.view(np.int32)
    gap = np.empty(1, np.float32)
    nearest_bits = gap.view(np.int32)
    # The nodes on the way down and, for each, its children not yet visited, as the bits of the gap to the child's box.
    # The last bits are replaced by the number of the child, which lowers the gap by at most 2e-6 of itself.
    path = np.zeros(_MAX_LEVELS, np.int64)
    pending = np.empty((_MAX_LEVELS, WIDTH), np.int32)
    query, previous = np.empty(dim, np.float32), np.zeros(dim, np.float32)
    previous_distance = np.float32(np.inf)
    for i in order:
        for stage in range(num_stages):
            for x in range(dim):
                if stage == 0:
                    query[x] = queries[i, x]
                else:
                    query[x] += distances[i, stage - 1, scale] * steps[i, x]
                    moved[i, x] = query[x]
            shift, is_finite = zero, True
            for x in range(dim):
                shift += (query[x] - previous[x]) ** 2
                is_finite &= np.isfinite(query[x])
            if not is_finite:
                for r in range(num_ranks):
                    distances[i, stage, r] = np.nan
                continue
            num_kept = ranks[i, num_ranks - 1]
            # The ball around the previous point held enough points, and this larger ball contains it. 1.00001 allows
            # for rounding.
            bound[0] = min((previous_distance + np.sqrt(shift)) ** 2 * np.float32(1.00001), _NO_BOUND)
            while True:
                count, level = 0, 0
                path[0] = 0
                is_new = True
                while level >= 0:
                    if is_new:
                        _open(nodes, nodes.level_starts[level] + path[level], query, gaps, gap_bits, pending[level])
                    nearest = _LARGEST_INT
                    for place in range(WIDTH):
                        nearest = min(nearest, pending[level, place])
                    nearest_bits[0] = nearest & ~_CHILD_BITS
                    if not (gap[0] < bound[0] or (by_index and gap[0] == bound[0])):
                        level -= 1
                        is_new = False
                        continue
                    chosen = nearest & _CHILD_BITS
                    pending[level, chosen] = _LARGEST_INT
                    child = path[level] * WIDTH + chosen
                    is_new = level < num_levels - 1
                    if is_new:
                        level += 1
                        path[level] = child
                        continue
                    limit = bound_bits[0] + by_index  # at equal distance the row decides
                    used = nodes.counts[child]
                    _square(nodes, child, query, squared, used)
                    num_closer = 0
                    for slot in range(used):
                        num_closer += squared_bits[slot] < limit
                    if num_closer == 0:
                        continue
                    for slot in range(used):  # without a branch, which would be mispredicted
                        found_bits[count] = squared_bits[slot]
                        found_rows[count] = nodes.ids[child, slot]
                        count += squared_bits[slot] < limit
                    if count >= 2 * num_kept:
                        bound_bits[0] = _nth_smallest(found_bits, count, num_kept, bound_bits[0])
                        count = _keep(found_bits, found_rows, count, bound_bits[0], num_kept)
                if count >= num_kept or bound[0] == _NO_BOUND:
                    break
                bound[0] = _NO_BOUND
            previous[:] = query
            previous_distance = np.float32(np.inf)
            for r in range(num_ranks - 1, -1, -1):
                if count < ranks[i, r]:  # the others are farther than float32 can hold
                    distances[i, stage, r] = np.inf
                    continue
                bound_bits[0] = _nth_smallest(found_bits, count, ranks[i, r], bound_bits[0])
                distances[i, stage, r] = np.sqrt(bound[0])
                if by_index:
                    rows[i, stage, r] = _last_row(found_bits, found_rows, count, bound_bits[0], ranks[i, r])
                if r == num_ranks - 1:
                    previous_distance = distances[i, stage, r]
