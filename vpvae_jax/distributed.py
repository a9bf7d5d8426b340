"""Several processes as one run: how they meet, which of them this is, and the mesh of all their devices."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from vpvae_jax.data.batches import Process
from vpvae_jax.errors import ConfigError

DATA_AXIS = "data"
_HEARTBEAT_SECONDS = 60  # after which a process that went silent is given up
_SHUTDOWN_SECONDS = 10 * 24 * 3600  # that a process which is done waits for the first to evaluate


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Meet the other processes of the run; before the first use of a JAX backend.

    Args:
        coordinator: `host:port` of process 0. None, with the others None, asks the cluster: SLURM, a TPU pod,
            Kubernetes or Open MPI, as `jax.distributed.initialize` knows them.
        num_processes: of the run.
        process_id: which of them this is, from 0.

    Raises:
        ConfigError: settings that do not belong together, no cluster that JAX knows, or processes that did not come.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given) and any(value is None for value in given):
        raise ConfigError("--coordinator, --num_processes and --process_id belong together: give all three or none")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id={process_id}: expected 0 to {num_processes - 1}, one for each process")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"the processes did not meet ({reason}): start all of them within five minutes with the same coordinator, "
            f"outside a cluster with --coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def this_process() -> Process:
    """Which of the processes of the run this is."""
    return Process(jax.process_index(), jax.process_count())


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def all_devices() -> list[jax.Device]:
    """The devices of all processes, those of a process side by side: it reads the rows that lie on them."""
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices along one axis, over which batches are cut."""
    return Mesh(np.array(all_devices() if devices is None else devices), (DATA_AXIS,))


def put_rows(rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The array of which each process has its rows."""
    if jax.process_count() == 1:
        return jax.device_put(rows, sharding)
    return jax.make_array_from_process_local_data(sharding, rows)


def put_copy(tree, sharding):
    """Arrays that each process has whole, on all devices."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, np.asarray(leaf).__getitem__), tree
    )


def from_first(number: int) -> int:
    """The number that the first process has."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int64(number)))
