"""Being asked to stop: SIGTERM saves and ends well."""

from __future__ import annotations

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Stopped(BaseException):
    """The run was asked to stop and did; what it had is saved.

    No Exception: what passes over a bad record must not pass over it.

    Args:
        message: for the user.
        by_all: whether the other processes of the run stop at the same place.
    """

    def __init__(self, message: str, *, by_all: bool = False):
        super().__init__(message)
        self.by_all = by_all


class Preemption:
    """Whether the run was asked to stop. Use as a context manager, around the steps of a training.

    Alone, a process takes SIGTERM itself. Of several, JAX's runtime takes it: when one of them gets it, all learn of it
    and agree on the step after which they stop.
    """

    def __init__(self):
        self._asked = False
        self._previous = None

    def __enter__(self) -> Preemption:
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
        if self._asked and error_type is None:  # while the last step was being saved
            raise Stopped("asked to stop: the last step is saved; run the same command again to resume")

    @staticmethod
    def begin_at(step: int) -> None:
        """Of several processes: none has come farther. Otherwise one that resumes would agree on a step long past."""
        if jax.process_count() > 1:
            multihost_utils.reached_preemption_sync_point(step)

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; to be asked after every one."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _note(self, *_) -> None:
        self._asked = True


def stop_on_sigterm() -> None:
    """Have SIGTERM end this program by `Stopped`, where nothing needs saving; `Preemption` is for where it does."""

    def stop(*_):
        raise Stopped("asked to stop: finished checkpoints are kept; run the same command again to resume")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
