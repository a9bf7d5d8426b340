"""Several processes as one run: how they meet, which of them this is, and the mesh of all their devices."""

from __future__ import annotations

import hashlib
import pathlib
import secrets
from collections.abc import Sequence

import jax
import numpy as np
from jax._src import distributed as runtime  # for a barrier of the runtime's own, which no device has a part in
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from vpvae_jax.data.batches import Process
from vpvae_jax.errors import ConfigError

DATA_AXIS = "data"
_HEARTBEAT_SECONDS = 60  # after which a process that went silent is given up
_PATIENCE_SECONDS = 10 * 24 * 3600  # of a process that is done, while the first evaluates
_TOKEN = ".seen_by_all"  # in the work directory, while the processes look whether it is one


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
            cluster_detection_method="deactivate" if coordinator is not None else None,
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


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices along one axis, over which batches are cut.

    Args:
        devices: default those of all processes. Those of one process lie side by side: it reads the rows on them.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (DATA_AXIS,))


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


def wait_for_all() -> None:
    """Wait until every process has come here. Leaving by itself, JAX waits for the others for five minutes only."""
    client = runtime.global_state.client
    if client is not None:
        client.wait_at_barrier("vpvae_jax: all are done", 1000 * _PATIENCE_SECONDS)


def check_together(workdir: pathlib.Path, settings: str) -> None:
    """Raise ConfigError in every process unless all have the same settings and see the same work directory."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(settings.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    others = [str(index) for index, row in enumerate(digests) if (row != digests[0]).any()]
    if others:
        raise ConfigError(
            f"process {', '.join(others)} was started with other settings than process 0: give all the same command "
            f"but for --process_id"
        )
    token = from_first(secrets.randbits(62))
    path = workdir / _TOKEN
    if is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        path.write_text(str(token))
    multihost_utils.sync_global_devices("the work directory is marked")
    is_seen = path.exists() and path.read_text() == str(token)
    seen = multihost_utils.process_allgather(np.array([is_seen]))
    if is_first():
        path.unlink()
    blind = [str(index) for index, row in enumerate(seen) if not row.all()]
    if blind:
        raise ConfigError(
            f"process {', '.join(blind)} does not see the {workdir} of process 0: name a --workdir on a file system "
            f"that all hosts mount"
        )


def from_first(number: int) -> int:
    """The number that the first process has."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int64(number)))
