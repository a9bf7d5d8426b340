"""The CPU backend: a k-d tree on the host, called from compiled programs. See `neighbors.backend`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from vpvae_jax.neighbors.cpu.kd_tree import KDTree
from vpvae_jax.neighbors.sharding import varying_like

_MAX_TREES = 4


def neighbor_distances(samples: jax.Array, queries: jax.Array, ranks: tuple[int, ...]) -> jax.Array:
    """Search as `vpvae_jax.neighbors.neighbor_distances` describes."""
    ascending = np.unique(ranks)
    columns = np.searchsorted(ascending, ranks)

    def search(samples, queries):
        with _tree_of(samples) as tree:
            if tree is None:
                return (np.nan,)
            return (tree.distances(queries, ascending)[:, columns],)

    shapes = (jax.ShapeDtypeStruct((queries.shape[0], len(ranks)), jnp.float32),)
    return _on_host(search, shapes, samples, queries)[0]


def neighbor_distances_along(
    samples: jax.Array, queries: jax.Array, steps: jax.Array, ranks: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Search as `vpvae_jax.neighbors.neighbor_distances_along` describes, in one call of the host."""
    ascending = np.unique(ranks)
    columns = np.searchsorted(ascending, ranks)

    def search(samples, queries, steps):
        with _tree_of(samples) as tree:
            if tree is None:
                return np.nan, np.nan, np.nan
            distances, moved, moved_distances = tree.distances_along(queries, steps, int(columns[-1]), ascending)
            return distances[:, columns], moved, moved_distances[:, columns]

    distances = jax.ShapeDtypeStruct((queries.shape[0], len(ranks)), jnp.float32)
    moved = jax.ShapeDtypeStruct(queries.shape, jnp.float32)
    return _on_host(search, (distances, moved, distances), samples, queries, steps)  # type: ignore[return-value]


def nearest(samples: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Search as `vpvae_jax.neighbors.nearest` describes; of several nearest samples the first is taken."""

    def search(samples, queries):
        distances, indices = _neighbors(samples, queries, np.array([1]))
        return indices[:, 0], distances[:, 0]

    num = queries.shape[0]
    shapes = (jax.ShapeDtypeStruct((num,), jnp.int32), jax.ShapeDtypeStruct((num,), jnp.float32))
    indices, distances = _on_host(search, shapes, samples, queries)
    return indices, distances


def neighbor_at_rank(samples: jax.Array, queries: jax.Array, ranks: jax.Array, max_rank: int) -> jax.Array:
    """Search as `vpvae_jax.neighbors.neighbor_at_rank` describes; of equally near samples the first ranks lower."""
    del max_rank  # each query searches as far as its own rank

    def search(samples, queries, ranks):
        _, indices = _neighbors(samples, queries, ranks[:, None])
        return (indices[:, 0],)

    shapes = (jax.ShapeDtypeStruct((queries.shape[0],), jnp.int32),)
    return _on_host(search, shapes, samples, queries, ranks)[0]


def _on_host(search: Callable, shapes: tuple[jax.ShapeDtypeStruct, ...], *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Call a numpy function from a compiled program; its results are broadcast to the shapes.

    `jax.pure_callback` would first copy the arguments in a thread of XLA's pool. On one core that may be the thread
    that waits for the callback (jax-ml/jax issue 24255): the program then hangs. Here buffers are read in place.
    """
    _finish_before_exit()

    def read_and_write(context, results, *buffers):
        del context
        for result, values in zip(results, search(*map(np.asarray, buffers)), strict=True):
            np.asarray(result)[...] = values

    results = buffer_callback(read_and_write, shapes, vmap_method="sequential")(*arrays)
    return varying_like(tuple(results), *arrays)


@functools.cache
def _finish_before_exit() -> None:
    """Wait for callbacks at exit: Python aborts if another thread, here one of XLA's, runs Python code then."""
    atexit.register(_wait_for_devices)


def _wait_for_devices() -> None:
    for array in jax.live_arrays():
        with contextlib.suppress(Exception):  # the error is reported where the array is used, or the array was deleted
            array.block_until_ready()


def _neighbors(samples: np.ndarray, queries: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find distances and rows by rank; NaN and 0 if a sample is not finite."""
    with _tree_of(samples) as tree:
        if tree is None:
            shape = (len(queries), ranks.shape[-1])
            return np.full(shape, np.nan), np.zeros(shape, np.int32)
        return tree.neighbors(queries, ranks)


_lock = threading.Lock()
_trees: dict[tuple[int, ...], KDTree] = {}


def _forget() -> None:
    """Start without trees in a forked child: another thread may have held the lock, or left a tree half updated."""
    global _lock
    _lock = threading.Lock()
    _trees.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def _tree_of(samples: np.ndarray) -> Iterator[KDTree | None]:
    """Lend the tree of `samples` to one thread at a time; None if a sample is not finite, since XLA cannot raise.

    The last few shapes have a tree each, which is updated to the samples.
    """
    with _lock:  # a search uses all cores, and another device may update the same tree
        tree = _trees.pop(samples.shape, None)
        if tree is not None:
            is_finite = tree.update(samples)
        elif is_finite := bool(np.isfinite(samples).all()):
            tree = KDTree(samples)
        if tree is not None:
            _trees[samples.shape] = tree
        if len(_trees) > _MAX_TREES:
            del _trees[next(iter(_trees))]
        yield tree if is_finite else None
