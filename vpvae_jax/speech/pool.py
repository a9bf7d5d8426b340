"""Score utterances in worker processes while the caller decodes the next ones."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing.context
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import pebble
import tqdm

from vpvae_jax.runtime.environment import num_cores
from vpvae_jax.runtime.errors import UserError
from vpvae_jax.speech.metrics import require_packages
from vpvae_jax.speech.scores import Scored, score

_IN_FLIGHT_PER_WORKER = 4  # enough that no worker waits for the caller; 35 s with two reconstructions are 27 MB
_ATTEMPTS = 2  # the second in a fresh process: what killed the first may have had nothing to do with the utterance
_POLL_SECONDS = 1.0
_LONGEST_IDLE_SECONDS = 180.0  # with utterances in flight: longer than processes take to start

# One BLAS thread a worker, as the workers use all cores; a caller's script, which workers import, gets no accelerator.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
_environment_lock = threading.Lock()  # pebble starts processes from several threads


@dataclasses.dataclass
class _Utterance:
    """An utterance in flight."""

    name: str
    original: np.ndarray
    reconstructions: dict[str, np.ndarray]
    future: concurrent.futures.Future
    deaths: int = 0  # processes that died while they scored it


class ScoringPool:
    """Worker processes that score utterances; a context manager.

        with ScoringPool(("stoi", "si_sdr_db")) as pool:
            for name, original, quantized, continuous in decoded:
                pool.submit(name, original, {"": quantized, "_continuous": continuous})
            scored = list(pool.results())

    A process that dies while it scores (a crash in C code, killed for memory) costs its utterance a retry in a fresh
    process; if that dies too, the utterance fails in every metric. The others are scored. A process that dies while it
    starts or waits costs nothing. If none is at work and that happens twice before an utterance is scored, `results`
    and `submit` raise: no process can run here. Leaving the context, by Ctrl-C or otherwise, ends all processes and
    drops what they are computing.

    Processes are spawned: a script that makes a pool needs `if __name__ == "__main__":`.
    """

    def __init__(self, metrics: Collection[str], num_workers: int | None = None):
        """Processes start with the first utterance.

        Args:
            metrics: keys of `metrics.METRICS`.
            num_workers: number of processes; None for the cores this process may use.

        Raises:
            ValueError: no worker.
            UserError: a package of a metric is missing.
        """
        self._num_workers = num_cores() if num_workers is None else num_workers
        if self._num_workers < 1:
            raise ValueError(f"num_workers={num_workers}: expected at least 1, or None for one a core")
        require_packages(metrics)
        self._metrics = tuple(metrics)
        self._in_flight: collections.deque[_Utterance] = collections.deque()
        self._scored: collections.deque[Scored] = collections.deque()
        self._num_broken = 0  # pools in a row in which no utterance was scored
        self._pool = pebble.ProcessPool(self._num_workers, context=_Spawn())

    def __enter__(self) -> ScoringPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.stop()
        self._pool.join()

    def submit(self, name: str, original: np.ndarray, reconstructions: Mapping[str, np.ndarray]) -> None:
        """Queue an utterance; waits while `4 num_workers` are in flight, so that memory stays bounded.

        Args:
            name: of the utterance, given back with its scores.
            original: `(samples,)` float32 at 16 kHz.
            reconstructions: waveforms like it by suffix, see `score`.

        Raises:
            Exception: see `results`.
        """
        if len(self._in_flight) >= _IN_FLIGHT_PER_WORKER * self._num_workers:
            self._scored.append(self._oldest())
        utterance = _Utterance(name, original, dict(reconstructions), concurrent.futures.Future())
        self._in_flight.append(utterance)
        self._start(utterance)

    def results(self) -> Iterator[Scored]:
        """What was submitted and not yet given back, in order of submission, with a progress bar.

        Raises:
            Exception: whatever a metric raised other than `UnscorableError`: a bug, or a missing package.
            UserError: the processes die before they can score.
        """
        with tqdm.tqdm(total=len(self._scored) + len(self._in_flight), unit="utterance", desc="scoring") as bar:
            while self._scored or self._in_flight:
                result = self._scored.popleft() if self._scored else self._oldest()
                bar.update()
                yield result

    def _oldest(self) -> Scored:
        """The result of the oldest utterance in flight; waits for it."""
        try:
            scored = self._score(self._in_flight[0])
        finally:
            self._in_flight.popleft()
        self._num_broken = 0
        return scored

    def _score(self, utterance: _Utterance) -> Scored:
        while True:
            try:
                return Scored(utterance.name, *self._wait(utterance.future))
            except pebble.ProcessExpired as death:
                utterance.deaths += 1
                if utterance.deaths == _ATTEMPTS:
                    reason = f"the scoring process died {_ATTEMPTS} times, last with exit code {death.exitcode}"
                    keys = [metric + suffix for suffix in utterance.reconstructions for metric in self._metrics]
                    return Scored(utterance.name, {}, dict.fromkeys(keys, reason))
                self._start(utterance)
            except BrokenProcessPool:
                self._restart()

    def _wait(self, future: concurrent.futures.Future) -> tuple[dict[str, float], dict[str, str]]:
        busy = time.monotonic()
        while not concurrent.futures.wait([future], _POLL_SECONDS).done:
            if any(utterance.future.running() for utterance in self._in_flight):
                busy = time.monotonic()
            # A pool that is not active does not send its queue. One that is idle lost an utterance: pebble does not
            # notice a process that dies while it receives one and others score.
            if not self._pool.active or time.monotonic() - busy > _LONGEST_IDLE_SECONDS:
                raise BrokenProcessPool
        return future.result()

    def _start(self, utterance: _Utterance) -> None:
        task = (utterance.original, utterance.reconstructions, self._metrics)
        try:
            utterance.future = self._pool.schedule(score, task)
        except RuntimeError:
            if self._pool.active:
                raise
            # A process died while none was scoring: pebble gave up the pool. `_oldest` will make another.
            utterance.future = concurrent.futures.Future()

    def _restart(self) -> None:
        """A new pool for what is in flight and not scored.

        Raises:
            UserError: the pool before it could not score anything either.
        """
        self._num_broken += 1
        if self._num_broken == _ATTEMPTS:
            raise UserError(
                "the scoring processes die before they can score, see above (too little memory?): a script that "
                'evaluates does so under `if __name__ == "__main__":`'
            )
        lost = [each for each in self._in_flight if _is_lost(each.future)]  # before stopping adds errors of its own
        self.__exit__()
        self._pool = pebble.ProcessPool(self._num_workers, context=_Spawn())
        for utterance in lost:
            self._start(utterance)


def _is_lost(future: concurrent.futures.Future) -> bool:
    return not future.done() or isinstance(future.exception(), BrokenProcessPool)


class _SpawnProcess(multiprocessing.context.SpawnProcess):
    def start(self) -> None:
        with _environment_lock, _environment(_WORKER_ENVIRONMENT):
            super().start()


class _Spawn(multiprocessing.context.SpawnContext):
    Process = _SpawnProcess


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)
