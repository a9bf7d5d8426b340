"""Help array code run on every mesh: Auto axes, Explicit axes, and inside a caller's `shard_map`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


def on_auto_axes(function: Callable, *arguments: Any, out_specs: Any) -> Any:
    """Call a function with the Explicit axes of a mesh treated as Auto ones, where XLA chooses the sharding.

    Explicit axes are what `jax.make_mesh` makes by default. With them JAX asks each operation that mixes shardings for
    the sharding of its result; here only the results of the whole function have one.

    Args:
        function: called with `arguments`.
        arguments: trees of arrays; their mesh, or that of `jax.set_mesh`, is looked at.
        out_specs: tree of `PartitionSpec`, a prefix of what the function returns; used only on an Explicit mesh.

    Returns:
        What the function returns.
    """
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(arguments)]
    for mesh in (*meshes, jax.sharding.get_abstract_mesh()):
        if mesh.explicit_axes:
            break
    else:
        return function(*arguments)
    out_sharding = jax.tree.map(lambda spec: NamedSharding(mesh, spec), out_specs, is_leaf=lambda x: isinstance(x, P))
    return jax.sharding.auto_axes(function, axes=mesh.explicit_axes, out_sharding=out_sharding)(*arguments)


def spec_of(array: jax.Array, num_axes: int | None = None) -> P:
    """Tell how the leading axes of an array are sharded over Explicit axes, all of them by default."""
    return P(*jax.typeof(array).sharding.spec[:num_axes])


def share_rows(function: Callable, common: jax.Array, *rows: jax.Array) -> Any:
    """Call `function(common, *rows)`; where a mesh is set, each device serves its share of the rows.

    Without it XLA would gather the rows of all devices, in every round of a search and before a callback.

    Args:
        function: returns arrays with as many rows.
        common: the same on every device.
        rows: `(n, ...)` each.
    """

    def share(common, *rows):
        mesh = jax.sharding.get_abstract_mesh()
        axes = [name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto]
        size = math.prod(mesh.shape[name] for name in axes)
        if size == 1 or rows[0].shape[0] % size:
            return function(common, *rows)
        cut = P(tuple(axes))
        return jax.shard_map(function, in_specs=(P(), *[cut] * len(rows)), out_specs=cut)(common, *rows)

    return on_auto_axes(share, common, *rows, out_specs=spec_of(rows[0], 1))


def varying_like(values: Any, *arrays: jax.Array) -> Any:
    """Return the same values; inside `shard_map` they count as differing between devices where the arrays do.

    JAX requires it of the start of a loop and of the results of a callback. Outside `shard_map` XLA removes it.
    """
    zero = functools.reduce(jnp.logical_or, [jnp.any(array[:1] > 0) for array in arrays]) & False
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), values)
