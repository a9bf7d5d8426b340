import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.speech.in_worker import Deadly, Described
from tests.speech.recordings import NAMES, add_noise, recording
from vpvae_jax.runtime.errors import UserError
from vpvae_jax.speech import pool as scoring
from vpvae_jax.speech.metrics import METRICS
from vpvae_jax.speech.pool import ScoringPool
from vpvae_jax.speech.scores import score

ROOT = pathlib.Path(__file__).parents[2]
SPEECH = recording("tt-weasels")
SILENT = np.zeros_like(SPEECH)
ALL = tuple(metric.key for metric in METRICS)
BOTH = {metric + suffix for metric in ALL for suffix in ("", "_continuous")}
CHEAP = ("si_sdr_db",)


def process_ids():
    return {child.pid for child in multiprocessing.active_children()}


def wait_until(condition, timeout=30.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def pool():
    """A pool of one process, for all tests."""
    before = process_ids()
    with ScoringPool(ALL, num_workers=1) as pool:
        yield pool
    assert not process_ids() - before


def score_one(pool):
    """Score an utterance; the process that did."""
    pool.submit("warm up", SPEECH, {"": SPEECH})
    (result,) = pool.results()
    assert set(result.scores) == set(ALL)
    (worker,) = process_ids()
    return worker


def test_scores_are_those_of_this_process_in_order_of_submission():
    # The longest comes first, so that the second worker overtakes it; and more than the eight that fit in flight.
    names = sorted(NAMES, key=lambda name: -recording(name).size) * 2
    pairs = [{"": add_noise(recording(n), 0.01, i), "_continuous": recording(n)} for i, n in enumerate(names)]
    metrics = ("si_sdr_db", "log_mel_distance")
    with ScoringPool(metrics, num_workers=2) as pool:
        for i, name in enumerate(names):
            pool.submit(f"{name}-{i}", recording(name), pairs[i])
        results = list(pool.results())
        assert not list(pool.results())
    assert [result.name for result in results] == [f"{name}-{i}" for i, name in enumerate(names)]
    for name, pair, result in zip(names, pairs, results, strict=True):
        scores, failures = score(recording(name), pair, metrics)
        assert set(scores) == {metric + suffix for metric in metrics for suffix in pair}
        assert result.scores == pytest.approx(scores, abs=1e-6)
        assert not failures
        assert not result.failures


def test_what_cannot_be_scored_is_listed(pool):
    pool.submit("silent", SILENT, {"": SPEECH})
    pool.submit("codec says nothing", SPEECH, {"": SILENT, "_continuous": SPEECH})
    pool.submit("nan", SPEECH, {"": SPEECH * np.float32(np.nan)})
    pool.submit("cut", SPEECH, {"": SPEECH[:-96]})
    silent, nothing, nan, cut = pool.results()
    for result, reason in ((silent, "silent"), (nan, "not finite"), (cut, "expected equal lengths")):
        assert not result.scores
        assert set(result.failures) == set(ALL)
        assert all(reason in text for text in result.failures.values())
    assert set(nothing.failures) == {"pesq_wb", "si_sdr_db"}
    assert set(nothing.scores) == BOTH - set(nothing.failures)


def test_utterances_in_flight_are_bounded(pool):
    worker = score_one(pool)
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


def test_a_process_that_dies_costs_a_retry(pool, tmp_path):
    worker = score_one(pool)
    pool.submit("unlucky", Deadly(SPEECH, tmp_path / "has died"), {"": SPEECH})
    pool.submit("after", SPEECH, {"": SPEECH})
    results = list(pool.results())
    assert [result.name for result in results] == ["unlucky", "after"]
    assert all(set(result.scores) == set(ALL) for result in results)
    assert (tmp_path / "has died").exists()
    assert worker not in process_ids()


def test_an_utterance_that_kills_every_process_fails_alone(pool):
    pool.submit("before", SPEECH, {"": SPEECH})
    pool.submit("deadly", Deadly(SPEECH), {"": SPEECH, "_continuous": SPEECH})
    pool.submit("after", SPEECH, {"": SPEECH})
    before, deadly, after = pool.results()
    assert not before.failures
    assert not after.failures
    assert not deadly.scores
    assert set(deadly.failures) == BOTH
    assert set(deadly.failures.values()) == {"the scoring process died 2 times, last with exit code -11"}


@pytest.mark.system
def test_a_process_that_is_killed_while_idle_costs_nothing(pool):
    """With none at work pebble gives up its pool: at the next utterance, or with utterances in the queue."""
    os.kill(score_one(pool), signal.SIGKILL)
    worker = score_one(pool)
    os.kill(worker, signal.SIGSTOP)
    for name in ("a", "b"):
        pool.submit(name, SPEECH, {"": SPEECH})
    time.sleep(0.2)  # the first is on its way to the process
    os.kill(worker, signal.SIGKILL)
    results = list(pool.results())
    assert [result.name for result in results] == ["a", "b"]
    assert all(set(result.scores) == set(ALL) for result in results)


@pytest.mark.system
def test_an_utterance_that_the_pool_lost_is_scored_by_another(pool, monkeypatch):
    score_one(pool)
    lost = pool._pool
    monkeypatch.setattr(lost, "schedule", lambda *_: concurrent.futures.Future())
    monkeypatch.setattr(scoring, "_LONGEST_IDLE_SECONDS", 0.0)
    restart = pool._restart
    monkeypatch.setattr(pool, "_restart", lambda: (monkeypatch.undo(), restart()))
    score_one(pool)
    assert pool._pool is not lost


def test_a_process_that_dies_while_it_starts_costs_nothing(tmp_path, monkeypatch):
    """Nor does the next, once an utterance was scored between them. Neither is a death of the utterance."""
    start, starts = scoring._SpawnProcess.start, []

    def start_and_die_first_and_fourth(process):
        start(process)
        starts.append(process)
        if len(starts) in (1, 4):
            process.kill()

    monkeypatch.setattr(scoring._SpawnProcess, "start", start_and_die_first_and_fourth)
    with ScoringPool(CHEAP, num_workers=1) as pool:
        for name in ("first", "second"):  # each also kills a process once, so that another starts
            pool.submit(name, Deadly(SPEECH, tmp_path / name), {"": SPEECH})
            (result,) = pool.results()
            assert set(result.scores) == set(CHEAP)
            assert not result.failures
    assert len(starts) == 5


def test_processes_that_die_before_they_score_are_reported(monkeypatch):
    """What is killed for memory prints nothing, so the error names memory."""
    start = scoring._SpawnProcess.start

    def start_and_die(process):
        start(process)
        process.kill()

    before = process_ids()
    monkeypatch.setattr(scoring._SpawnProcess, "start", start_and_die)
    with ScoringPool(CHEAP, num_workers=2) as pool:
        pool.submit("x", SPEECH, {"": SPEECH})
        with pytest.raises(UserError, match=r"die before they can score, see above \(too little memory\?\)"):
            list(pool.results())
        monkeypatch.undo()
    assert not process_ids() - before


@pytest.mark.system
def test_an_utterance_too_long_for_the_memory_fails_alone(pool):
    """STOI of an hour asks for 965 MiB at once; the worker's address space has less than that left."""
    worker = score_one(pool)
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
    os.kill(worker, signal.SIGKILL)  # the limit is not for other tests


def test_a_bug_reaches_the_caller(pool):
    pool.submit("batch", SPEECH[None], {"": SPEECH[None]})
    with pytest.raises(ValueError, match="utterances one by one") as raised:
        list(pool.results())
    assert "_checked" in str(raised.value.__cause__)  # the traceback of the worker
    score_one(pool)  # the bug is reported once


def test_a_worker_has_one_blas_thread_and_no_jax(pool, tmp_path):
    pool.submit("probe", Described(tmp_path / "facts.json"), {"": SPEECH})
    list(pool.results())
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts.pop("process") != os.getpid()
    assert facts == {"has jax": False, "threads": "1", "ignores ctrl-c": True}


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with ScoringPool(CHEAP, num_workers=1) as pool:
        pool.submit("x", SPEECH, {"": SPEECH})
        assert dict(os.environ) == before


def test_processes_that_start_at_once_leave_the_environment_as_it_was(monkeypatch):
    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", lambda process: time.sleep(0.02))
    before = dict(os.environ)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        starts = [threads.submit(scoring._SpawnProcess.start, scoring._SpawnProcess()) for _ in range(4)]
    assert [start.exception() for start in starts] == [None] * 4
    assert dict(os.environ) == before


def test_leaving_early_ends_what_is_under_way():
    before = process_ids()
    with pytest.raises(KeyboardInterrupt), ScoringPool(CHEAP, num_workers=1) as pool:  # noqa: PT012
        for _ in range(4):
            pool.submit("never read", SPEECH, {"": SPEECH})
        workers = process_ids() - before
        raise KeyboardInterrupt
    assert workers
    assert not process_ids() & workers


def test_no_worker():
    with pytest.raises(ValueError, match="num_workers=0: expected at least 1"):
        ScoringPool(CHEAP, num_workers=0)


SCRIPT = """
import multiprocessing
import signal
import numpy as np
from vpvae_jax.speech.pool import ScoringPool

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    speech = np.random.default_rng(0).standard_normal(160_000).astype(np.float32) / 10
    with ScoringPool(("stoi", "pesq_wb"), num_workers=2) as pool:
        for _ in range(2):
            pool.submit("warm up", speech, {"": speech})
        list(pool.results())
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        while True:
            pool.submit("more", speech, {"": speech})
"""


@pytest.mark.system
def test_a_script_without_guard_is_told_so(tmp_path):
    script = tmp_path / "scoring.py"
    script.write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 1
    # The workers that failed may leave a warning of multiprocessing's resource tracker behind it.
    assert 'a script that evaluates does so under `if __name__ == "__main__":`\n' in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.system
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
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2
    (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
    _, errors = run.communicate(timeout=20)
    assert run.returncode == -number
    assert errors.count("Traceback") == (number == signal.SIGINT)  # of the program, none of a worker
    wait_until(lambda: not any(os.path.exists(f"/proc/{worker}") for worker in workers), timeout=10)
