"""Orbax checkpoints of the train state and of the data iterator, atomic and asynchronous."""

from __future__ import annotations

import pathlib
import shutil

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vpvae_jax.errors import CheckpointError
from vpvae_jax.training.state import TrainState

_STATE, _DATA = "state", "data"
_OVERHEAD_BYTES = 2**20  # metadata of a checkpoint, generously


class Checkpoints:
    """The checkpoints of one run, a directory a step. Use as a context manager: leaving it waits for the last save.

    Args:
        directory: where they lie; made if need be.
        keep: number of latest checkpoints kept.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        self._directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.LatestN(keep), cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is None:
            self.wait()
        try:
            self._manager.close()
        except Exception:
            if error_type is None:  # otherwise the error that is under way is the one to report
                raise

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None without one."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Steps of all checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, iterator: grain.DatasetIterator) -> None:
        """Start saving; returns once the arrays are copied. An error of the save before is raised here."""
        step = int(state.step)
        self._check_room(state)
        items = ocp.args.Composite(
            **{_STATE: ocp.args.StandardSave(state._asdict()), _DATA: grain.checkpoint.CheckpointSave(iterator)}
        )
        try:
            self._manager.save(step, args=items)
        except Exception as error:
            raise self._write_error(error) from error

    def wait(self) -> None:
        """Wait until the last save is on disk."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(error) from error

    def restore(
        self, like: TrainState, iterator: grain.DatasetIterator | None = None, step: int | None = None
    ) -> TrainState:
        """A saved state; an iterator, if given, is moved to where it was.

        Args:
            like: a state whose shardings are to be used, or its `ShapeDtypeStruct`s to get it on one device.
            iterator: of the same data set.
            step: which checkpoint; default the newest.

        Raises:
            CheckpointError: no such checkpoint, or one that cannot be read.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self._directory} holds no checkpoint: train first (--mode=train)")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise CheckpointError(f"{self._directory} holds no checkpoint of step {step}: it has {steps}")
        like = jax.tree.map(_with_sharding, like)
        items = {_STATE: ocp.args.StandardRestore(like._asdict())}
        if iterator is not None:
            items[_DATA] = grain.checkpoint.CheckpointRestore(iterator)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint {self._directory / str(step)} cannot be read with this config ({_first_line(error)}): "
                f"if it is damaged, move it away to go on from the one before"
            ) from error
        state = TrainState(**restored[_STATE])
        jax.tree.map(_check_dtype, like, state)
        return state

    def _check_room(self, state: TrainState) -> None:
        """Refuse a save that cannot fit, before it leaves half of itself on the disk."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _OVERHEAD_BYTES
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            mebibyte = 2**20
            raise self._write_error(
                OSError(f"no space left on device: {free / mebibyte:.1f} MiB free, {needed / mebibyte:.1f} MiB needed")
            )

    def _write_error(self, error: Exception) -> CheckpointError:
        kept = self.latest_step()
        good = "no checkpoint was written yet" if kept is None else f"the checkpoint of step {kept} is intact"
        return CheckpointError(
            f"a checkpoint could not be written to {self._directory} ({_first_line(error)}): {good}; "
            f"mend the cause (disk full?) and run the same command again"
        )


def _with_sharding(leaf) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _check_dtype(expected, restored) -> None:
    if expected.dtype != restored.dtype or expected.shape != restored.shape:
        raise CheckpointError(
            f"the checkpoint holds {restored.dtype}{restored.shape}, expected {expected.dtype}{expected.shape}: "
            f"it was written by another version; train in a new --workdir"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
