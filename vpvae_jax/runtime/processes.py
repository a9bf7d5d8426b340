"""Several processes as one run: how they meet, which of them this is, and the mesh of all their devices."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import secrets
from collections.abc import Sequence
from typing import Any

import flax.serialization
import jax
import numpy as np
from jax._src import distributed as runtime  # for a barrier of the runtime's own, which no device has a part in
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from vpvae_jax.runtime.errors import ConfigError

DATA_AXIS = "data"
_PATIENCE_SECONDS = 10 * 24 * 3600  # of a process that is done, while others still evaluate or the first writes
_barriers = itertools.count()  # their names: every process comes to the same ones in the same order
_ANY = "surrogateescape"
# What a runtime error of this process' own begins with, and what tells of another process in any error.
_OF_ITS_OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND")
_SIGNS_OF_PEERS = ("Gloo", "oordination service", "heartbeat", "Barrier")
_TOKEN = ".seen_by_all"  # in the work directory, while the processes look whether it is one


@dataclasses.dataclass(frozen=True)
class Process:
    """One of the processes of a run."""

    index: int  # 0..count - 1
    count: int

    def share(self, num: int) -> range:
        """Which of `num` things belong to this process; together the processes have all, in order."""
        return range(num * self.index // self.count, num * (self.index + 1) // self.count)


ALONE = Process(0, 1)


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
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    lacking = [flag for flag, value in given.items() if value is None]
    if 0 < len(lacking) < len(given):
        raise ConfigError(
            f"{' and '.join(lacking)} not given: --coordinator, --num_processes and --process_id belong together"
        )
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id={process_id}: expected 0 to {num_processes - 1}, one for each process")
    if coordinator is not None:
        print(
            f"process {process_id} of {num_processes}: waiting for the others at {coordinator}, up to 5 minutes",
            flush=True,
        )
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            cluster_detection_method="deactivate" if coordinator is not None else None,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        if "should be defined" in reason:
            raise ConfigError(
                "--distributed but no cluster that JAX knows (SLURM, a TPU pod, Kubernetes, Open MPI): give "
                "--coordinator=HOST:PORT --num_processes=N --process_id=I instead"
            ) from error
        raise ConfigError(
            f"the processes did not meet ({reason}): start all of them within five minutes with the same coordinator, "
            f"outside a cluster with --coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def check_backend() -> None:
    """Raise ConfigError if JAX has no device to compute on."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX_PLATFORMS names a backend without devices
        reason = " ".join(str(error).split())[:200] or "no device"
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise ConfigError(
            f"JAX cannot use a device (JAX_PLATFORMS={platforms}: {reason}): install its plugin, such as "
            f"'vpvae_jax[cuda12]', or set JAX_PLATFORMS=cpu"
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
    """Wait until every process has come here, for days: collectives, and leaving, give up after minutes."""
    client = runtime.global_state.client
    if client is not None:
        client.wait_at_barrier(f"vpvae_jax: {next(_barriers)}", 1000 * _PATIENCE_SECONDS)


def gather(value: Any) -> list[Any]:
    """What each process has, in the order of the processes; every process must call this, and holds all of it.

    Args:
        value: dicts, lists, numbers, strings, None and numpy arrays, nested; less than 2 GiB.
    """
    if jax.process_count() == 1:
        return [value]
    wait_for_all()
    mine = _to_bytes(value)
    return [_from_bytes(_broadcast(mine, source)) for source in range(jax.process_count())]


def from_first(value: Any) -> Any:
    """The value that the first process has; see `gather`."""
    if jax.process_count() == 1:
        return value
    wait_for_all()
    return _from_bytes(_broadcast(_to_bytes(value), 0))


def _broadcast(mine: np.ndarray, source: int) -> np.ndarray:
    is_source = source == jax.process_index()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(mine)), is_source))
    size = 1 << max(0, length - 1).bit_length()  # few sizes, for each is compiled
    rows = np.zeros(size, np.uint8)
    if is_source:
        rows[:length] = mine
    return multihost_utils.broadcast_one_to_all(rows, is_source)[:length]


def _to_bytes(value: Any) -> np.ndarray:
    # Names of files may be no text.
    encoded = jax.tree.map(lambda leaf: leaf.encode("utf-8", _ANY) if isinstance(leaf, str) else leaf, value)
    return np.frombuffer(flax.serialization.msgpack_serialize(encoded), np.uint8)


def _from_bytes(content: np.ndarray) -> Any:
    value = flax.serialization.msgpack_restore(content.tobytes())
    return jax.tree.map(lambda leaf: leaf.decode("utf-8", _ANY) if isinstance(leaf, bytes) else leaf, value)


def lost_peer(error: BaseException) -> str:
    """In one line how an error says that another process has stopped or cannot be reached, empty if it does not."""
    if jax.process_count() == 1:
        return ""
    cause: BaseException | None = error
    while cause is not None:
        words = str(cause)
        is_of_runtime = isinstance(cause, jax.errors.JaxRuntimeError) and not words.startswith(_OF_ITS_OWN)
        if is_of_runtime or any(sign in words for sign in _SIGNS_OF_PEERS):
            return words.strip().splitlines()[0][:200]
        cause = cause.__cause__ or cause.__context__
    return ""


def check_same(values: dict[str, str], complaint: str) -> None:
    """Raise ConfigError in every process unless all have the same values: `process 1 COMPLAINT: KEY is 3, not 2`."""
    of_all = gather(values)
    for index, others in enumerate(of_all):
        for key in sorted(of_all[0].keys() | others.keys()):
            if others.get(key) != of_all[0].get(key):
                raise ConfigError(
                    f"process {index} {complaint}: {key} is {others.get(key)} there and {of_all[0].get(key)} in "
                    f"process 0"
                )


def check_same_workdir(workdir: pathlib.Path) -> None:
    """Raise ConfigError in every process unless all see the work directory of the first, which is made."""
    if jax.process_count() == 1:
        return
    token, place = from_first([secrets.token_hex(), str(workdir.absolute())])
    path = workdir / _TOKEN
    if is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        path.write_text(token)
    wait_for_all()
    seen = gather(path.exists() and path.read_text() == token)
    if is_first():
        path.unlink()
    blind = [str(index) for index, is_seen in enumerate(seen) if not is_seen]
    if blind:
        raise ConfigError(
            f"process {', '.join(blind)} does not see the {place} of process 0 as its --workdir: name one on a file "
            f"system that all hosts mount"
        )
