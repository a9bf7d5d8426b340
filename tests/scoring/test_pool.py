import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests import tiny
from tests.recordings import NAMES, add_noise, recording
from vpvae_jax.errors import UserError
from vpvae_jax.metrics.audio import METRICS
from vpvae_jax.scoring.pool import ScoringPool
from vpvae_jax.scoring.scores import score

SPEECH = recording("tt-weasels")
SILENT = np.zeros_like(SPEECH)
BOTH = {metric + suffix for metric in METRICS for suffix in ("", "_continuous")}


class CalledInTheWorker:
    """Takes the place of a waveform and becomes `function(*args)` where it is unpickled."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def describe(path):
    from jax._src import xla_bridge

    facts = {"backends": xla_bridge.backends_are_initialized(), "threads": os.environ["OPENBLAS_NUM_THREADS"]}
    path.write_text(json.dumps(facts))
    return np.zeros(5, np.float32)


def reconstructions(waveform, seed=0):
    return {"": add_noise(waveform, 0.01, seed), "_continuous": add_noise(waveform, 0.003, seed)}


def process_ids():
    return {child.pid for child in multiprocessing.active_children()}


def wait_until(condition, timeout=30.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def lone_worker():
    """A pool of one process that has started, and the id of that process."""
    before = process_ids()
    with ScoringPool(num_workers=1) as pool:
        pool.submit("warm up", SPEECH, {"": SPEECH})
        (result,) = pool.results()
        assert not result.failures
        (worker,) = process_ids() - before
        yield pool, worker
    assert not process_ids() - before


@pytest.mark.slow
def test_scores_are_those_of_this_process_in_order_of_submission():
    # The longest comes first, so that the second worker overtakes it.
    names = sorted(NAMES, key=lambda name: -recording(name).size) * 2
    with ScoringPool(num_workers=2) as pool:
        for i, name in enumerate(names):
            pool.submit(f"{name}-{i}", recording(name), reconstructions(recording(name), i))
        results = list(pool.results())
        assert not list(pool.results())
    assert [result.name for result in results] == [f"{name}-{i}" for i, name in enumerate(names)]
    for i in (0, 9):
        scores, failures = score(recording(names[i]), reconstructions(recording(names[i]), i))
        assert results[i].scores == pytest.approx(scores, abs=1e-6)
        assert set(scores) == BOTH
        assert not failures
    assert all(set(result.scores) == BOTH for result in results)


def test_what_cannot_be_scored_is_listed(lone_worker):
    pool, _ = lone_worker
    pool.submit("silent", SILENT, {"": SPEECH})
    pool.submit("codec says nothing", SPEECH, {"": SILENT, "_continuous": SPEECH})
    pool.submit("nan", SPEECH, {"": SPEECH * np.float32(np.nan)})
    pool.submit("cut", SPEECH, {"": SPEECH[:-96]})
    silent, nothing, nan, cut = pool.results()
    for result, reason in ((silent, "silent"), (nan, "not finite"), (cut, "expected equal lengths")):
        assert not result.scores
        assert set(result.failures) == set(METRICS)
        assert all(reason in text for text in result.failures.values())
    assert set(nothing.failures) == {"pesq_wb", "si_sdr_db"}
    assert set(nothing.scores) == BOTH - set(nothing.failures)


def test_unscored_utterances_are_bounded(lone_worker):
    pool, worker = lone_worker
    submitted = []

    def submit():
        for i in range(6):
            pool.submit(str(i), SPEECH, {"": SPEECH})
            submitted.append(i)

    os.kill(worker, signal.SIGSTOP)
    thread = threading.Thread(target=submit)
    thread.start()
    try:
        wait_until(lambda: len(submitted) == 4)
        time.sleep(0.3)
        assert len(submitted) == 4
    finally:
        os.kill(worker, signal.SIGCONT)
        thread.join()
    assert [result.name for result in pool.results()] == list("012345")


def test_a_killed_process_costs_nothing(lone_worker):
    pool, worker = lone_worker
    os.kill(worker, signal.SIGSTOP)
    for name in ("a", "b"):
        pool.submit(name, SPEECH, {"": SPEECH})
    time.sleep(0.2)  # the first is on its way to the process
    os.kill(worker, signal.SIGKILL)
    results = list(pool.results())
    assert [result.name for result in results] == ["a", "b"]
    assert all(set(result.scores) == set(METRICS) for result in results)
    assert worker not in process_ids()


@pytest.mark.slow
def test_an_utterance_that_kills_every_process_fails_alone(lone_worker):
    pool, _ = lone_worker
    pool.submit("before", SPEECH, {"": SPEECH})
    pool.submit("deadly", CalledInTheWorker(signal.raise_signal, signal.SIGSEGV), {"": SPEECH, "_continuous": SPEECH})
    pool.submit("after", SPEECH, {"": SPEECH})
    before, deadly, after = pool.results()
    assert not before.failures
    assert not after.failures
    assert not deadly.scores
    assert set(deadly.failures) == BOTH
    assert set(deadly.failures.values()) == {"the scoring process died 2 times, last with exit code -11"}


@pytest.mark.slow
def test_a_process_that_dies_while_it_starts_costs_nothing_once_another_has_begun(lone_worker, monkeypatch):
    pool, worker = lone_worker
    before = process_ids()
    os.kill(worker, signal.SIGKILL)
    start = multiprocessing.context.SpawnProcess.start

    def start_and_die(process):
        start(process)
        monkeypatch.undo()
        process.kill()

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", start_and_die)
    for name in ("unlucky", "after"):
        pool.submit(name, SPEECH, {"": SPEECH})
    unlucky, after = pool.results()
    assert set(unlucky.failures.values()) == {"the scoring process died 2 times, last with exit code -9"}
    assert not after.failures
    assert not before & process_ids()


@pytest.mark.slow
def test_an_utterance_too_long_for_the_memory_fails_alone(lone_worker):
    """Of an hour STOI asks for 965 MiB at once; the worker's address space has less than that left."""
    pool, worker = lone_worker
    with open(f"/proc/{worker}/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.prlimit(worker, resource.RLIMIT_AS, (used + 9 * 2**27, used + 9 * 2**27))
    hour = np.resize(SPEECH, 3600 * 16_000)
    pool.submit("long", hour, {"": hour})
    pool.submit("after", SPEECH, {"": SPEECH})
    long, after = pool.results()
    assert not after.failures
    assert "too little memory for 3600 s" in long.failures["stoi"]
    assert worker in process_ids()


def test_processes_start_when_there_is_work_for_them():
    before = process_ids()
    with ScoringPool(num_workers=5) as pool:
        assert process_ids() == before
        for _ in range(2):
            pool.submit("one at a time", SPEECH, {"": SPEECH})
            list(pool.results())
        assert len(process_ids() - before) == 1


def test_a_mistake_in_the_caller_is_raised(lone_worker):
    pool, _ = lone_worker
    pool.submit("batch", SPEECH[None], {"": SPEECH[None]})
    with pytest.raises(ValueError, match="utterances one by one") as raised:
        list(pool.results())
    assert "In a scoring process" in raised.value.__notes__[0]


def test_a_worker_has_one_blas_thread_and_no_xla_backend(lone_worker, tmp_path):
    pool, _ = lone_worker
    pool.submit("probe", CalledInTheWorker(describe, tmp_path / "facts.json"), {"": SPEECH})
    list(pool.results())
    assert json.loads((tmp_path / "facts.json").read_text()) == {"backends": False, "threads": "1"}


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with ScoringPool(num_workers=1):
        assert dict(os.environ) == before


def test_leaving_early_ends_what_is_under_way():
    with pytest.raises(KeyboardInterrupt), ScoringPool(num_workers=1) as pool:  # noqa: PT012
        pool.submit("never read", SPEECH, {"": SPEECH})
        wait_until(process_ids)
        workers = process_ids()
        raise KeyboardInterrupt
    assert workers
    assert not process_ids() & workers


@pytest.mark.slow
def test_a_process_killed_before_any_could_begin_is_told():
    def kill():
        wait_until(process_ids)
        for process_id in process_ids():
            os.kill(process_id, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with ScoringPool(1) as pool:
        pool.submit("x", SPEECH, reconstructions(SPEECH))
        with pytest.raises(UserError, match="killed by signal 9 before it could begin"):
            list(pool.results())
    killer.join()


def test_no_worker():
    with pytest.raises(ValueError, match="num_workers=0: expected at least 1"):
        ScoringPool(num_workers=0)


SCRIPT = """
import multiprocessing
import signal
import numpy as np
from vpvae_jax.scoring.pool import ScoringPool

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    speech = np.random.default_rng(0).standard_normal(160_000).astype(np.float32) / 10
    with ScoringPool(num_workers=2) as pool:
        for _ in range(2):
            pool.submit("warm up", speech, {"": speech})
        list(pool.results())
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        while True:
            pool.submit("more", speech, {"": speech})
"""


@pytest.mark.slow
def test_a_script_without_guard_is_told_so(tmp_path):
    script = tmp_path / "scoring.py"
    script.write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=60)
    assert run.returncode == 1
    assert run.stderr.rstrip().endswith('a script that evaluates does so under `if __name__ == "__main__":`')


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.slow
def test_no_process_outlives_the_program(tmp_path, number):
    """Ctrl-C reaches the whole group; after a kill the workers see that nobody is there."""
    script = tmp_path / "scoring.py"
    script.write_text(SCRIPT)
    run = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(tiny.ROOT)},
    )
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2
    (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
    _, errors = run.communicate(timeout=20)
    assert run.returncode == -number
    assert errors.count("Traceback") == (number == signal.SIGINT)  # of the program, none of a worker
    wait_until(lambda: not any(os.path.exists(f"/proc/{worker}") for worker in workers), timeout=10)
