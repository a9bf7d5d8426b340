"""How a train state is sharded over the devices."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vpvae_jax.runtime.processes import DATA_AXIS
from vpvae_jax.training.state import TrainState

_MIN_ELEMENTS = 2**16  # of an array that is worth sharding: 256 KiB of float32


def state_shardings(shapes: TrainState, mesh: Mesh, *, shard_params: bool) -> TrainState:
    """A sharding for each array of a state.

    Args:
        shapes: of the state, see `abstract_state`.
        mesh: of all devices.
        shard_params: large parameters, and with them their running mean and the optimizer's moments, are sharded along
            their longest axis that the devices divide; each is gathered where it is used (fully sharded data
            parallel). The memory and the rest of the quantizer's state are the same everywhere.
    """
    replicated = NamedSharding(mesh, P())

    def sharded(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if not axes or np.prod(leaf.shape) < _MIN_ELEMENTS:
            return replicated
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*[DATA_AXIS if axis == longest else None for axis in range(leaf.ndim)]))

    everywhere = jax.tree.map(lambda _: replicated, shapes)
    if not shard_params:
        return everywhere
    return everywhere._replace(
        params=jax.tree.map(sharded, shapes.params),
        ema_params=jax.tree.map(sharded, shapes.ema_params),
        opt_state=jax.tree.map(sharded, shapes.opt_state),
    )
