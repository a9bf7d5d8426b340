"""A profile of some steps, for TensorBoard or Perfetto."""

from __future__ import annotations

import pathlib
from typing import Any

import jax


class Trace:
    """Records what devices and host do in some steps of a run. A context manager around the loop.

    Args:
        directory: gets `plugins/profile/TIME/`.
        after: the step after which it begins; the first is slower than the others.
        num_steps: how many; 0 for no profile.
    """

    def __init__(self, directory: pathlib.Path, *, after: int, num_steps: int):
        self._directory, self._first, self._last = directory, after, after + num_steps
        self._is_recording = False

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *error) -> None:
        self._stop()

    def after_step(self, step: int, results: Any) -> None:
        """To be called after each step with what it returned."""
        if self._first == self._last:
            return
        if step == self._first:
            jax.block_until_ready(results)
            jax.profiler.start_trace(self._directory)
            self._is_recording = True
        elif step == self._last:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        if self._is_recording:
            self._is_recording = False
            jax.profiler.stop_trace()
