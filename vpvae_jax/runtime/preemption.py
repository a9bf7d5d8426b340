"""Being asked to stop: SIGTERM and Ctrl-C save and end well."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

_asked: list[BaseException] = []  # to stop; the process ends unless what was raised for it got lost
INTERRUPTED = 130  # exit code of a program that Ctrl-C ended


class Stopped(BaseException):
    """The run was asked to stop and did; what it had is saved.

    No Exception: what passes over a bad record must not pass over it.

    Args:
        message: for the user; empty where nothing was saved for it.
        by_all: whether the other processes of the run stop at the same place.
        code: of the process' exit.
    """

    def __init__(self, message: str = "", *, by_all: bool = False, code: int = 0):
        super().__init__(message)
        self.by_all, self.code = by_all, code


class Preemption:
    """Whether the run was asked to stop. Use as a context manager, around the steps of a training.

    Alone, a process takes SIGTERM itself. Of several, JAX's runtime takes it: when one of them gets it, all learn of it
    and agree on the step after which they stop. Ctrl-C does the same; a second one is a KeyboardInterrupt at once.
    """

    def __init__(self):
        self._asked = False
        self._previous: dict[int, Any] = {}
        self._code = 0

    def __enter__(self) -> Preemption:
        _raise_if_asked()
        if threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
            if jax.process_count() == 1:
                self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._asked and error_type is None:  # while the last step was being saved
            raise self.stopped("the last step is saved")

    def stopped(self, what: str) -> Stopped:
        """What to raise once all is saved."""
        message = f"asked to stop: {what}; run the same command again to resume"
        return Stopped(message, by_all=True, code=self._code)

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

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._asked = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._code:
            raise KeyboardInterrupt
        self._code = INTERRUPTED
        print("\nstopping after this step, to save it; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX tells the others
        else:
            self._note(number, frame)


def stop_when_asked() -> None:
    """Have SIGTERM (by `Stopped`) and Ctrl-C end this program where nothing needs saving, else see `Preemption`.

    Raises:
        Stopped, KeyboardInterrupt: asked to stop before, by an exception that got lost: code that calls back from C, or
            that collects garbage, cannot pass one on.
    """
    _raise_if_asked()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    asked: BaseException = Stopped() if number == signal.SIGTERM else KeyboardInterrupt()
    _asked[:] = [asked]
    sys.unraisablehook = _report_lost
    raise asked


def _report_lost(lost: sys.UnraisableHookArgs) -> None:
    """Report an exception that got lost as Python does, but for those that are raised again."""
    if not any(lost.exc_value is asked for asked in _asked):
        sys.__unraisablehook__(lost)


def _raise_if_asked() -> None:
    if _asked:
        raise _asked.pop()
