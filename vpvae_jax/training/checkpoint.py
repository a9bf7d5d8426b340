"""Orbax checkpoints of the train state and of the data iterator: atomic, asynchronous, verified by sha256."""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vpvae_jax.runtime import processes
from vpvae_jax.runtime.errors import CheckpointError
from vpvae_jax.training import manifest
from vpvae_jax.training.state import TrainState

_LOG = logging.getLogger(__name__)
_STATE, _DATA = "state", "data"
_NONE, _ALL_DAMAGED = -1, -2  # in place of a step
_OVERHEAD_BYTES = 2**20  # metadata of a checkpoint, generously


class Checkpoints:
    """The checkpoints of one run, a directory a step. Use as a context manager: leaving it waits for the last save.

    A step gets a manifest of its files before it gets its name. What differs from its manifest later is damaged: it is
    named, and quarantined when the run resumes from an earlier one.

    Args:
        directory: where they are; made if it does not exist.
        keep: number of latest checkpoints kept.
        keep_best: number of checkpoints of the lowest loss kept besides.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 2, keep_best: int = 0):
        self._directory, self._num_kept = directory.absolute(), keep + keep_best
        policies = [preservation_policy.LatestN(keep)]
        if keep_best:
            best = preservation_policy.BestN(
                get_metric_fn=_loss, reverse=True, n=keep_best,
                keep_checkpoints_without_metrics=False,
            )  # fmt: skip
            policies.append(best)
        self._saving: int | None = None
        self._known: dict[int, str] = {}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            best_fn=_loss,  # Orbax writes the metrics of a step only where there is one
            best_mode="min",
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        if processes.is_first():
            _quarantine_unreadable_metrics(self._directory)
        handlers = {_STATE: ocp.StandardCheckpointHandler(), _DATA: grain.checkpoint.CheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_handlers=handlers)

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

    def latest_good_step(self) -> int | None:
        """Step of the newest undamaged checkpoint, None without any checkpoint; warns of damaged ones.

        Reads all of it. Of several processes the first reads, and tells the others.

        Raises:
            CheckpointError: there are checkpoints and all are damaged.
        """
        good = _NONE
        if processes.is_first():
            steps = self.steps()
            good = _ALL_DAMAGED if steps else _NONE
            for step in reversed(steps):
                what = self._damage(step)
                if not what:
                    good = step
                    break
                _LOG.warning("the checkpoint %s is damaged: %s", self._directory / str(step), what)
        good = processes.from_first(good)
        if good == _NONE:
            return None
        if good == _ALL_DAMAGED:
            raise CheckpointError(
                f"every checkpoint in {self._directory} is damaged or has no {manifest.NAME} (see the warnings above): "
                f"restore them from a copy, or train in a new --workdir"
            )
        return good

    def quarantine(self, after: int, target: pathlib.Path) -> None:
        """Move the damaged checkpoints of later steps out of the way of those that will be written again."""
        if processes.is_first():
            for step in self.steps():
                if step > after:
                    target.mkdir(exist_ok=True)
                    place = target / str(step)
                    shutil.rmtree(place, ignore_errors=True)
                    shutil.move(self._directory / str(step), place)
                    _LOG.warning("resuming from step %d; what is left of step %d is in %s", after, step, place)
        processes.wait_for_all()
        self._known.clear()
        self._manager.reload()

    def save(self, state: TrainState, iterator: grain.DatasetIterator, loss: float | None = None) -> None:
        """Start saving; returns once the arrays are copied. An error of the save before is raised here.

        Args:
            state: of a step that was not saved yet.
            iterator: the place in the data from which to resume.
            loss: by which the best are kept.
        """
        self.wait()  # the manifest of one save at a time
        step = self._saving = int(state.step)
        self._check_room(state)
        items = ocp.args.Composite(
            **{_STATE: ocp.args.StandardSave(state._asdict()), _DATA: grain.checkpoint.CheckpointSave(iterator)}
        )
        try:
            self._manager.save(step, args=items, metrics=None if loss is None else {"loss": loss})
        except Exception as error:
            if processes.lost_peer(error):
                raise
            raise self._write_error(error) from error

    def wait(self) -> None:
        """Wait until the last save is on disk."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            if processes.lost_peer(error):
                raise
            raise self._write_error(error) from error

    def restore(
        self, like: TrainState, iterator: grain.DatasetIterator | None = None, step: int | None = None
    ) -> TrainState:
        """A saved state; an iterator, if given, is moved to where it was.

        Args:
            like: a state whose shardings are to be used, or its `ShapeDtypeStruct`s to get it on one device.
            iterator: of the same data set.
            step: which checkpoint; default the newest that is not damaged.

        Raises:
            CheckpointError: no such checkpoint, or one that is damaged or belongs to another config.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self._directory} holds no checkpoint: train first (--mode=train)")
        if step is None:
            step = self.latest_good_step() or 0
        elif step not in steps:
            raise CheckpointError(f"{self._directory} holds no checkpoint of step {step}: it has {steps}")
        elif processes.from_first(bool(processes.is_first() and self._damage(step))):
            raise CheckpointError(
                f"the checkpoint {self._directory / str(step)} is damaged ({self._damage(step)}): restore it from a "
                f"copy, or use another of {steps}"
            )
        like = jax.tree.map(_with_sharding, like)
        items = {_STATE: ocp.args.StandardRestore(like._asdict())}
        if iterator is not None:
            items[_DATA] = grain.checkpoint.CheckpointRestore(iterator)
        try:
            self._check_types(like, step)
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        except CheckpointError:
            raise
        except Exception as error:
            if processes.lost_peer(error):
                raise
            raise CheckpointError(
                f"the checkpoint {self._directory / str(step)} cannot be read with this config ({_first_line(error)}): "
                f"it is undamaged, so use the config and the version that wrote it"
            ) from error
        return TrainState(**restored[_STATE])

    def _check_types(self, like: TrainState, step: int) -> None:
        """Orbax would cast to other types without a word."""
        stored = self._manager.item_metadata(step)[_STATE].tree
        found = {leaf.name: leaf for leaf in jax.tree.leaves(stored)}
        for name, expected in _by_name(like._asdict()).items():
            leaf = found.get(name)
            if leaf is None or leaf.dtype != expected.dtype or tuple(leaf.shape) != expected.shape:
                there = "nothing" if leaf is None else f"{leaf.dtype}{tuple(leaf.shape)}"
                raise CheckpointError(
                    f"the checkpoint {self._directory / str(step)} holds {there} as {name}, expected "
                    f"{expected.dtype}{expected.shape}: use the config and the version that wrote it, or train in a "
                    f"new --workdir"
                )

    def _damage(self, step: int) -> str:
        """What is wrong with a step, see `manifest.damage`; each is read once."""
        directories = {number: self._directory / str(number) for number in self.steps()}
        if not any((directory / manifest.NAME).exists() for directory in directories.values()):
            _LOG.warning("the checkpoints in %s have no %s: they are not verified", self._directory, manifest.NAME)
            return ""  # written before there were manifests
        if step not in self._known:
            self._known[step] = manifest.damage(directories[step])
        return self._known[step]

    def _write_manifest(self) -> None:
        """Orbax calls it when all files of a step are there and the step has not got its name yet."""
        if processes.is_first():
            (directory,) = self._directory.glob(f"{self._saving}.*tmp*")
            manifest.write_manifest(directory)

    def check_room(self, like: TrainState) -> None:
        """Raise CheckpointError if the checkpoints that a run keeps, and the one it writes meanwhile, cannot fit."""
        self._check_room(like, max(1, self._num_kept + 1 - len(self.steps())))

    def _check_room(self, like: TrainState, num: int = 1) -> None:
        """Refuse a save that cannot fit, before it leaves half of itself on the disk."""
        needed = num * (sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like)) + _OVERHEAD_BYTES)
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            mebibyte = 2**20
            raise self._write_error(
                OSError(
                    f"no space left on device: {free / mebibyte:.1f} MiB free, {needed / mebibyte:.1f} MiB needed for "
                    f"{num} of them"
                )
            )

    def _write_error(self, error: Exception) -> CheckpointError:
        kept = self.latest_step()
        good = "no checkpoint was written yet" if kept is None else f"the checkpoint of step {kept} is intact"
        return CheckpointError(
            f"a checkpoint could not be written to {self._directory} ({_first_line(error)}): {good}; "
            f"fix the cause (disk full?) and run the same command again to resume"
        )


def _quarantine_unreadable_metrics(directory: pathlib.Path) -> None:
    """Orbax reads them before anything can be verified, and stops at what is no JSON; the step counts as damaged."""
    for path in directory.glob("*/metrics/metrics"):
        try:
            is_good = isinstance(json.loads(path.read_bytes()).get("loss"), float)
        except (ValueError, AttributeError, RecursionError):
            is_good = False
        if not is_good:
            path.rename(path.with_name("unreadable"))


def _loss(metrics: dict[str, float]) -> float:
    return metrics["loss"]


def _with_sharding(leaf) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _by_name(tree) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
