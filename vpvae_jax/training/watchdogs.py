"""Warnings of a run that goes wrong slowly: what was observed, and what to try."""

from __future__ import annotations

import collections
import logging
import statistics
import threading
import time
from types import TracebackType

import jax

from vpvae_jax.runtime.environment import resident_bytes

_LOG = logging.getLogger(__name__)
_SPIKE = 3.0  # times the median loss of the periods before
_NUM_REMEMBERED = 20  # periods
_MIN_REMEMBERED = 5
_MIN_ACCEPTANCE = 0.05
_MIN_USAGE = 0.02  # of the codes that a batch could use
_MIN_CVU = 0.05
_MAX_INPUT_SHARE = 0.5
_STALL_SECONDS = 60.0
_GIBIBYTE = 2**30


class Watchdogs:
    """Looks at the metrics of each logged period; warns once when something begins to look wrong.

    Args:
        codebook_size: K of the training.
        tokens_per_batch: which bound the codes that a batch can use.
    """

    def __init__(self, codebook_size: int, tokens_per_batch: int):
        self._usable = min(codebook_size, tokens_per_batch)
        self._codebook_size = codebook_size
        self._losses: collections.deque[float] = collections.deque(maxlen=_NUM_REMEMBERED)
        self._num_periods = 0
        self._wrong: set[str] = set()

    def look(self, step: int, values: dict[str, float]) -> list[str]:
        """Warn of what is new in the metrics of the period up to the step-th; returns the warnings."""
        self._num_periods += 1
        found = self._found(values)
        new = [f"step {step}: {words}" for name, words in found.items() if name not in self._wrong]
        self._wrong = set(found)
        for words in new:
            _LOG.warning(words)
        return new

    def _found(self, values: dict[str, float]) -> dict[str, str]:
        found = {}
        usual = statistics.median(self._losses) if len(self._losses) >= _MIN_REMEMBERED else None
        self._losses.append(values["loss"])
        if usual is not None and values["loss"] > _SPIKE * usual > 0:
            found["spike"] = (
                f"the loss is {values['loss']:.4g}, {values['loss'] / usual:.1f} times what it was: if it does not "
                f"recover, lower train.learning_rate or set train.clip_norm"
            )
        acceptance = values.get("acceptance_rate")
        if acceptance is not None and acceptance < _MIN_ACCEPTANCE:
            found["acceptance"] = (
                f"only {acceptance:.1%} of the perturbations are accepted, so the decoder hardly sees any: lower "
                f"quantizer.eta or quantizer.latent_dim, set quantizer.move=neighbor, or raise the weights of L_norm "
                f"(quantizer.latent_norm.mean_weight, quantizer.latent_norm.variance_weight)"
            )
        cvu = values.get("eval_cvu")
        if cvu is not None and cvu < _MIN_CVU:
            found["usage"] = (
                f"the examples that are watched use {cvu:.1%} of the codes in effect (CVU): the latents collapse; "
                f"lower train.learning_rate, or raise the weights of L_norm where the method has them"
            )
        usage = values.get("batch_usage")
        if usage is not None and usage * self._codebook_size < _MIN_USAGE * self._usable:
            found["collapse"] = (
                f"a batch uses {usage * self._codebook_size:.1f} of {self._codebook_size} codes in effect: the "
                f"codebook collapses; lower train.learning_rate, or train with quantizer=vp or fsp"
            )
        # The first period waits for the pipeline to fill.
        if self._num_periods > 1 and values.get("input_share", 0.0) > _MAX_INPUT_SHARE:
            found["input"] = (
                f"{values['input_share']:.0%} of the time is spent waiting for data: raise data.num_threads or "
                f"data.cache_mib, or put the data on a faster disk"
            )
        return found


class StallWatch:
    """Warns while the loop waits long for its next batch. A context manager around the whole loop.

    Args:
        seconds: after which a wait is worth a warning; repeated as often.
    """

    def __init__(self, seconds: float = _STALL_SECONDS):
        self._seconds = seconds
        self._since: float | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall watch", daemon=True)

    def __enter__(self) -> StallWatch:
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def begin(self) -> None:
        """The loop asks for a batch."""
        self._since = time.monotonic()

    def end(self) -> float:
        """The loop has got it; returns how many seconds it took."""
        seconds, self._since = time.monotonic() - (self._since or time.monotonic()), None
        return seconds

    def _watch(self) -> None:
        warned = 0
        while not self._end.wait(self._seconds / 10):
            since = self._since
            waited = 0.0 if since is None else time.monotonic() - since
            if waited < self._seconds:
                warned = 0
            elif waited >= (warned + 1) * self._seconds:
                warned += 1
                _LOG.warning(
                    "no batch for %.0f s: the input is stalled; check the disk or the network file system of the data",
                    waited,
                )


def memory_in_use() -> dict[str, float]:
    """GiB of this process, and of its fullest device where the backend tells."""
    used = {"host_memory_gib": resident_bytes() / _GIBIBYTE}
    in_use = [stats["bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    if in_use:
        used["device_memory_gib"] = max(in_use) / _GIBIBYTE
    return used
