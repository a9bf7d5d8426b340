import errno
import os
import signal
import time
import warnings

import numba.core.caching
import numpy as np
import pytest

from vpvae_jax.neighbors.cpu import kd_kernels, kd_tree
from vpvae_jax.neighbors.cpu import tree as backend
from vpvae_jax.neighbors.cpu.kd_tree import KDTree

RANKS = np.array([1, 8, 48])
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def draw(num, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)


def sorted_neighbors(points, queries):
    """Squared distances in float32, and rows; of equally far points the first comes first."""
    squared = np.zeros((len(queries), len(points)), np.float32)
    for x in range(points.shape[1]):
        squared += (queries[:, None, x] - points[None, :, x]) ** 2
    order = np.argsort(squared, axis=1, kind="stable")
    return np.sqrt(np.take_along_axis(squared, order, axis=1)), order


def assert_exact(tree, points, queries, ranks=RANKS):
    """Bit for bit, with and without the tie rule."""
    distances, rows = sorted_neighbors(points, queries)
    found, indices = tree.neighbors(queries, ranks)
    np.testing.assert_array_equal(found, distances[:, ranks - 1])
    np.testing.assert_array_equal(indices, rows[:, ranks - 1])
    np.testing.assert_array_equal(tree.distances(queries, ranks), distances[:, ranks - 1])


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8, 16, 64])
def test_a_fresh_tree_is_exact(dim):
    points, queries = draw(5000, dim), draw(400, dim, seed=1)
    assert_exact(KDTree(points), points, queries)


@pytest.mark.parametrize("num_points", [1, 2, 95, 96, 97, 1536, 1537, 24_577])
def test_every_number_of_points(num_points):
    points, queries = draw(num_points, 3), draw(50, 3, seed=1)
    assert_exact(KDTree(points), points, queries, np.unique([1, -(-num_points // 2), num_points]))


@pytest.mark.parametrize("drift", [0.0, 0.05], ids=["stationary", "drifting"])
def test_a_tree_follows_a_ring_buffer_whose_entries_are_all_replaced_twice(drift):
    points, queries = draw(3000, 4), draw(60, 4, seed=1)
    tree = KDTree(points)
    rng = np.random.default_rng(2)
    for step in range(60):
        points = points.copy()
        points[np.arange(100 * step, 100 * (step + 1)) % len(points)] = rng.normal(drift * step, 1, (100, 4))
        tree.update(points)
        if step % 5 == 0:
            assert_exact(tree, points, queries + np.float32(drift * step))


def test_a_leaf_that_overflows_is_no_error(monkeypatch):
    points, queries = draw(3000, 3), draw(60, 3, seed=1)
    tree = KDTree(points)
    builds = []
    build = KDTree._build
    monkeypatch.setattr(KDTree, "_build", lambda self: builds.append(1) or build(self))
    for step in range(6):
        points = points.copy()
        points[100 * step : 100 * (step + 1)] = [0.1, 0.2, 0.3]
        tree.update(points)
        assert_exact(tree, points, np.concatenate([queries, points[:2]]))
    assert builds


def test_any_rows_may_change_by_any_amount():
    points, queries = draw(3000, 3), draw(60, 3, seed=1)
    tree = KDTree(points)
    rng = np.random.default_rng(2)
    for num_changed in (1, 700, 0, 2999, 3000, 30):
        points = points.copy()
        points[rng.permutation(3000)[:num_changed]] *= 10
        tree.update(points)
        assert_exact(tree, points, queries)


@pytest.mark.parametrize("points", [np.full((2000, 3), 0.7), np.repeat(draw(5, 3), 400, axis=0)], ids=["one", "five"])
def test_repeated_points(points):
    points = points.astype(np.float32)
    assert_exact(KDTree(points), points, np.concatenate([points[:3], points[:3] + 1]))


def test_ties_go_to_the_lower_row_whatever_the_history():
    grid = np.stack(np.meshgrid(*[np.arange(12.0)] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    tree = KDTree(grid)
    shuffled = np.random.default_rng(0).permutation(grid)
    for stop in range(100, len(grid) + 1, 100):
        current = np.concatenate([shuffled[:stop], grid[stop:]])
        tree.update(current)
        assert_exact(tree, current, grid[:50] + np.float32(0.5), np.arange(1, 30))


def test_collinear_points():
    line = np.arange(1000, dtype=np.float32)[:, None] * np.array([[1, 2, -1]], np.float32)
    assert_exact(KDTree(line), line, line[::7] + np.float32(0.5))


def test_each_query_may_have_its_own_ranks():
    points, queries = draw(2000, 3), draw(300, 3, seed=1)
    ranks = np.random.default_rng(2).integers(1, 60, (300, 1))
    distances, rows = sorted_neighbors(points, queries)
    found, indices = KDTree(points).neighbors(queries, ranks)
    np.testing.assert_array_equal(found, np.take_along_axis(distances, ranks - 1, axis=1))
    np.testing.assert_array_equal(indices, np.take_along_axis(rows, ranks - 1, axis=1))


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_a_walk_of_two_points_equals_two_searches(scale):
    points, queries, steps = draw(3000, 4), draw(500, 4, seed=1), draw(500, 4, seed=2)
    steps[3] = 0
    queries[5, 1] = np.nan
    tree = KDTree(points)
    distances, moved, moved_distances = tree.distances_along(queries, steps, scale, RANKS)
    expected = tree.distances(queries, RANKS)
    np.testing.assert_array_equal(distances, expected)
    np.testing.assert_array_equal(moved, queries + expected[:, [scale]] * steps)
    np.testing.assert_array_equal(moved_distances, tree.distances(moved, RANKS))
    np.testing.assert_array_equal(np.isnan(moved_distances).all(axis=1), np.arange(500) == 5)


def test_distances_beyond_float32_are_infinite():
    points = np.array([[0, 0], [1, 0], [3e30, 0]], np.float32)
    found = KDTree(points).distances(np.array([[0, 0], [-2e30, 0]], np.float32), np.array([1, 2, 3]))
    np.testing.assert_array_equal(found, [[0, 1, np.inf], [np.inf, np.inf, np.inf]])


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"holds points of shape \(20, 3\) but got \(20, 4\)"):
        KDTree(draw(20, 3)).update(draw(20, 4))


@pytest.mark.parametrize("num_changed", [1, 3000])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_not_finite_are_refused_and_change_nothing(num_changed, bad):
    points, queries = draw(3000, 3), draw(60, 3, seed=1)
    tree = KDTree(points)
    spoilt = points + 1 if num_changed > 1 else points.copy()
    spoilt[7, 1] = bad
    assert not tree.update(spoilt)
    assert_exact(tree, points, queries)
    assert tree.update(points)


def holds_in_a_forked_child(predicate):
    """Whether the predicate holds in a child of this process; False if it hangs there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX and Python warn of forks of processes with threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if predicate() else 2
        finally:
            os._exit(status)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@needs_fork
def test_a_forked_child_searches(monkeypatch):
    """Threads do not survive a fork; a child that waited for those of its parent would hang."""
    monkeypatch.setattr(kd_tree, "_num_workers", lambda: 2)
    points, queries = draw(3000, 3), draw(2000, 3, seed=1)
    tree = KDTree(points)
    expected = tree.distances(queries, RANKS)  # the parent's threads are running now
    assert holds_in_a_forked_child(lambda: np.array_equal(tree.distances(queries, RANKS), expected))


@needs_fork
def test_a_child_forked_while_its_parent_searches_makes_a_tree_of_its_own():
    """The copy of the lock stays held in the child, and the copy of the tree may be half updated."""
    points, queries = draw(300, 3), draw(20, 3, seed=1)
    with backend._tree_of(points) as parents:
        expected = parents.distances(queries, RANKS)

        def search():
            with backend._tree_of(points) as mine:
                return mine is not parents and np.array_equal(mine.distances(queries, RANKS), expected)

        assert holds_in_a_forked_child(search)
    with backend._tree_of(points) as kept:
        assert kept is parents


def test_a_full_disk_under_the_cache_of_numba_is_no_error(monkeypatch):
    saved = []

    def save(self, key, data):
        saved.append(key)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", save)

    @kd_kernels._jit
    def inner(x):
        return x + 1

    @kd_kernels._jit
    def outer(x):
        return inner(x) * 2

    assert outer(3) == 8
    assert len(saved) == 2
