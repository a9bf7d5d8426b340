"""Metrics of a run on their way from the device to the log and the progress bar."""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import tqdm

from vpvae_jax.runtime.errors import TrainingDivergedError
from vpvae_jax.training.metric_log import MetricLog
from vpvae_jax.training.step import Metrics
from vpvae_jax.training.watchdogs import Watchdogs, memory_in_use


class Progress:
    """Collects the metrics of steps that may not have run yet. Use as a context manager.

    `add` and `end_period` never wait. `report` waits for the steps of the period that ended: call it when the device
    has another step to do meanwhile, or when a checkpoint needs to know that all is finite.

    Args:
        workdir: see `MetricLog`.
        start_step: number of updates already done.
        num_steps: number of updates of the whole run.
        batch_size: examples a step.
        unit: what one example is called.
        watchdogs: look at each period's metrics.
        learning_rate: of each step.
        is_writing: False where another process of the run writes and shows the same metrics.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        start_step: int,
        num_steps: int,
        batch_size: int,
        unit: str,
        watchdogs: Watchdogs,
        learning_rate: Callable[[int], Any],
        is_writing: bool = True,
    ):
        self._batch_size, self._unit = batch_size, unit
        self._watchdogs, self._learning_rate = watchdogs, learning_rate
        self._log = MetricLog(workdir, start_step) if is_writing else None
        self._bar = tqdm.tqdm(
            total=num_steps,
            initial=start_step,
            unit="step",
            desc="training",
            smoothing=0.1,
            disable=not is_writing,
        )
        self._pending: list[Metrics] = []
        self._ended: tuple[int, list[Metrics], float] | None = None
        self._input_seconds = 0.0
        self._scores: dict[str, str] = {}  # the last ones stay in sight
        self._since = time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()
        if self._log is not None:
            self._log.close()

    def add(self, metrics: Metrics, input_seconds: float) -> None:
        """Take the metrics of one step, and how long the loop waited for its batch."""
        for value in metrics.values():
            value.copy_to_host_async()
        self._pending.append(metrics)
        self._input_seconds += input_seconds

    def end_period(self, step: int) -> None:
        """The steps added since the last call, up to the step-th, become one line of the log at the next `report`."""
        self._ended = step, self._pending, self._input_seconds
        self._pending, self._input_seconds = [], 0.0

    def report(self, scores: Mapping[str, float] | None = None, pause_seconds: float = 0.0) -> float | None:
        """Log the period that ended, if there is one, and return its mean loss.

        Args:
            scores: of `Validation`, after its last step.
            pause_seconds: that they took, while nothing was trained.

        Raises:
            TrainingDivergedError: a loss or a gradient in it is not finite.
        """
        if self._ended is None:
            return None
        (step, pending, input_seconds), self._ended = self._ended, None
        values = _mean_of_finite(pending, step)
        now = time.perf_counter()
        seconds = now - self._since - pause_seconds
        values["examples_per_second"] = len(pending) * self._batch_size / seconds
        values["input_share"] = input_seconds / seconds
        values["learning_rate"] = float(self._learning_rate(step - 1))
        values["unix_time"] = time.time()
        values |= scores or {}
        self._since = now
        if self._log is not None:
            self._watchdogs.look(step, values)
            self._log.write(step, values | memory_in_use())
        self._show(len(pending), values, scores)
        return values["loss"]

    def _show(self, num_steps: int, values: dict[str, float], scores: Mapping[str, float] | None) -> None:
        shown = {"loss": f"{values['loss']:.4f}"}
        if "acceptance_rate" in values:
            shown["acceptance"] = f"{values['acceptance_rate']:.2f}"
        self._scores |= {name.removeprefix("eval_"): f"{value:.3g}" for name, value in (scores or {}).items()}
        shown |= self._scores
        shown[f"{self._unit}s/s"] = f"{values['examples_per_second']:.0f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(num_steps)


def _mean_of_finite(pending: list[Metrics], last_step: int) -> dict[str, float]:
    """Mean metrics of the pending steps; the first that is not finite ends the run."""
    fetched = jax.device_get(pending)
    for step, metrics in enumerate(fetched, start=last_step - len(fetched) + 1):
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(metrics[name]):
                raise TrainingDivergedError(
                    f"{name} is {metrics[name]} at step {step}: stopped, the last checkpoint is from before; "
                    f"lower train.learning_rate or train.clip_norm, in a new --workdir"
                )
    return {name: float(sum(metrics[name] for metrics in fetched) / len(fetched)) for name in fetched[0]}
