"""Runs that are killed end with the same parameters, bit for bit. Real processes, killed for real."""

import json
import random
import signal
import subprocess
import time

import numpy as np
import pytest
import safetensors.numpy

from tests import tiny

STEPS = {"train__num_steps": 24, "checkpoint__every": 4}


def _weights(workdir):
    return safetensors.numpy.load_file(tiny.tokenizer(workdir) / "weights.safetensors")


def _losses(workdir):
    return [
        (line["step"], line["loss"]) for line in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    ]


def _assert_same_run(workdir, undisturbed):
    expected, restarted = _weights(undisturbed), _weights(workdir)
    assert expected.keys() == restarted.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(restarted[name], array, err_msg=name)
    assert _losses(workdir) == _losses(undisturbed)


def _kill_when(words, is_time) -> bool:
    """Start a run and kill it once `is_time()`; True if it was still running then."""
    process = subprocess.Popen(words, cwd=tiny.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not is_time():
            time.sleep(0.002)
        was_running = process.poll() is None
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    return was_running


def _num_logged(workdir) -> int:
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """The processes started here load what the first has compiled; half a file that a kill leaves is compiled again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("undisturbed")
    done = tiny.run(tiny.command(workdir, data_dir, **STEPS))
    assert done.returncode == 0, done.stderr
    assert [step for step, _ in _losses(workdir)] == list(range(1, 25))
    return workdir


@pytest.mark.system
def test_a_killed_run_resumes_bit_for_bit(tmp_path, data_dir, undisturbed):
    words = tiny.command(tmp_path, data_dir, **STEPS)
    assert _kill_when(words, lambda: _num_logged(tmp_path) >= 11)
    assert not (tmp_path / "tokenizers").exists()

    done = tiny.run(words)

    assert done.returncode == 0, done.stderr
    _assert_same_run(tmp_path, undisturbed)


@pytest.mark.reliability
def test_kills_at_random_moments_and_inside_a_save(tmp_path, data_dir, undisturbed):
    words = tiny.command(tmp_path, data_dir, **STEPS)
    rng = random.Random(0)
    checkpoints = tmp_path / "checkpoints"

    def is_saving():
        return any(checkpoints.glob("*tmp*"))

    # Before anything is written, during start-up, inside the first two saves seen, at random steps, while fitting.
    assert _kill_when(words, lambda: True)
    started = time.monotonic()
    assert _kill_when(words, lambda: time.monotonic() - started > rng.uniform(2, 8))
    for _ in range(2):
        _kill_when(words, is_saving)
    for _ in range(3):
        goal = _num_logged(tmp_path) + rng.randint(1, 6)
        _kill_when(words, lambda goal=goal: _num_logged(tmp_path) >= min(goal, 24))
    _kill_when(words, (checkpoints / "24").exists)

    done = tiny.run(words)

    assert done.returncode == 0, done.stderr
    _assert_same_run(tmp_path, undisturbed)


@pytest.mark.system
def test_training_again_in_a_finished_work_directory_changes_nothing(data_dir, undisturbed):
    before, losses = _weights(undisturbed), _losses(undisturbed)
    done = tiny.run(tiny.command(undisturbed, data_dir, **STEPS))
    assert done.returncode == 0, done.stderr
    after = _weights(undisturbed)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert _losses(undisturbed) == losses
