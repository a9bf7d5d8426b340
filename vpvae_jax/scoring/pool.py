"""Score utterances in worker processes while the caller goes on decoding."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

from vpvae_jax.errors import UserError
from vpvae_jax.metrics import audio
from vpvae_jax.scoring.scores import Scored, score

_IN_FLIGHT_PER_WORKER = 4  # enough that none waits for the caller; of 35 s and two reconstructions, 27 MB
_ATTEMPTS = 2  # the second in a fresh process: what killed the first may have had nothing to do with the utterance

# What a worker starts with: one BLAS thread, for the pool fills the cores, and no claim on an accelerator.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}


class ScoringPool:
    """Worker processes that score utterances; a context manager.

        with ScoringPool() as pool:
            for name, original, quantized, continuous in decoded:
                pool.submit(name, original, {"": quantized, "_continuous": continuous})
            scored = list(pool.results())

    A process that dies (a crash in C code, killed for memory) costs its utterance one more attempt in a fresh process;
    if that dies too, the utterance fails in every metric. The others go on. Leaving the context, by Ctrl-C or
    otherwise, ends all processes and drops what they are at.

    Processes are spawned: a script that makes a pool needs `if __name__ == "__main__":`.
    """

    def __init__(self, num_workers: int | None = None):
        """Processes start as there is work for them.

        Args:
            num_workers: processes at most; None for the cores this process may run on.

        Raises:
            ValueError: no worker.
            UserError: a package that the metrics need is missing.
        """
        num_workers = _num_cores() if num_workers is None else num_workers
        if num_workers < 1:
            raise ValueError(f"num_workers={num_workers}: expected at least 1, or None for one a core")
        audio.require_packages()
        self._slots = threading.Semaphore(_IN_FLIGHT_PER_WORKER * num_workers)
        self._submitted: collections.deque[concurrent.futures.Future[Scored]] = collections.deque()
        # A thread for each process: it sends, waits for the answer and sees the process die; the work is not here.
        self._threads = concurrent.futures.ThreadPoolExecutor(num_workers, "scoring")
        has_begun = threading.Event()
        self._workers = [_Worker(has_begun) for _ in range(num_workers)]
        # The last to become idle goes first: a process is started when all others are at work.
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __enter__(self) -> ScoringPool:
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self._workers:
            worker.kill()  # at which the thread that waits for it ends
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def submit(self, name: str, original: np.ndarray, reconstructions: Mapping[str, np.ndarray]) -> None:
        """Queue an utterance; waits while `4 num_workers` are unscored, so that memory stays bounded.

        Args:
            name: of the utterance, given back with its scores.
            original: `(samples,)` float32 at 16 kHz.
            reconstructions: waveforms like it by suffix, see `score`.
        """
        self._slots.acquire()
        self._submitted.append(self._threads.submit(self._score, name, original, dict(reconstructions)))

    def results(self) -> Iterator[Scored]:
        """What was submitted and not yet given back, in order of submission, waiting for each, with a progress bar.

        Raises:
            Exception: what a metric raised other than `UnscorableError`: a mistake in the code, or a missing package.
            UserError: no process could start.
        """
        with tqdm.tqdm(total=len(self._submitted), unit="utterance", desc="scoring") as bar:
            while self._submitted:
                result = self._submitted.popleft().result()
                bar.update()
                yield result

    def _score(self, name: str, original: np.ndarray, reconstructions: dict[str, np.ndarray]) -> Scored:
        worker = self._idle.get()
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return Scored(name, *worker.score(original, reconstructions))
                except _WorkerDied as death:
                    reason = f"the scoring process died {_ATTEMPTS} times, last with exit code {death.exit_code}"
            return Scored(name, {}, {metric + suffix: reason for suffix in reconstructions for metric in audio.METRICS})
        finally:
            self._idle.put(worker)
            self._slots.release()


class _WorkerDied(Exception):
    def __init__(self, exit_code: int | None):
        super().__init__(exit_code)
        self.exit_code = exit_code  # minus the signal that killed it


class _Worker:
    """A process that scores, started when first needed and again when it died; one thread at a time, `kill` any."""

    _spawning = threading.Lock()  # of any worker: the environment and the list of children belong to the process

    def __init__(self, has_begun: threading.Event):
        self._has_begun = has_begun  # whether any worker of the pool ever did
        self._closed = False
        self._process: Any = None
        self._ready = False

    def score(self, *task: Any) -> tuple[dict[str, float], dict[str, str]]:
        if self._process is None:
            self._start()
        try:
            if not self._ready:
                self._connection.recv()
                self._ready = True
                self._has_begun.set()
            self._connection.send(task)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            exit_code = self.end()
            if not self._has_begun.is_set() and not self._closed:
                if exit_code is not None and exit_code < 0:
                    raise UserError(
                        f"a scoring process was killed by signal {-exit_code} before it could begin (too little "
                        "memory?): run the same command again"
                    ) from error
                raise UserError(
                    f"a scoring process ended with exit code {exit_code} before it could begin, see above: "
                    'a script that evaluates does so under `if __name__ == "__main__":`'
                ) from error
            self._start()
            raise _WorkerDied(exit_code) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        with self._spawning:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def end(self) -> int | None:
        """Wait for a process that is dying; its exit code, None if there is none."""
        if self._process is None:
            return None
        self._connection.close()
        with self._spawning:
            self._process.join()
            return self._process.exitcode

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        with self._spawning:
            if self._closed:
                raise concurrent.futures.CancelledError("the scoring pool was closed")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs,), daemon=True)
            with theirs, _environment(_WORKER_ENVIRONMENT):
                self._process.start()
        self._ready = False


def _num_cores() -> int:
    """Those this process may run on, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _work(connection: Any) -> None:
    """Answer tasks until the other side closes; Ctrl-C reaches the parent, which ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        connection.send("ready")
        while True:
            task = connection.recv()
            try:
                answer: Any = score(*task)
            except Exception as error:  # a mistake, to be shown where the results are read
                error.add_note(f"In a scoring process:\n{traceback.format_exc()}")
                answer = error
            connection.send(answer)
