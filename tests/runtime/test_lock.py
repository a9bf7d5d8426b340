"""One process at a time in a directory; who holds it is said, and what has died is taken over."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests import tiny
from vpvae_jax.runtime import lock
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.runtime.lock import hold

HOLDER = """
import pathlib, sys, time
from vpvae_jax.runtime.lock import hold
with hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the directory."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, cwd=tiny.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.system
def test_the_holder_is_named_and_taken_over_once_it_is_dead(tmp_path, holder):
    named = rf"another process is at work in .* \(process {holder.pid} of host {platform.node()} since 20..-.*\)"
    with pytest.raises(ConfigError, match=named), hold(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == holder.pid
    with hold(tmp_path):
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock.json").exists()


def test_a_directory_is_made_and_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "new"):
        raise KeyError
    with hold(tmp_path / "new"):
        pass


def _of_another_host(tmp_path):
    (tmp_path / ".lock.json").write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "2026-01-01"}))
    return tmp_path / ".lock.json"


def test_a_living_holder_on_another_host_is_refused(tmp_path):
    path, ended = _of_another_host(tmp_path), threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ConfigError, match="process 7 of host elsewhere since 2026-01-01"), hold(tmp_path):
            pass
    finally:
        ended.set()
        thread.join()


def test_a_dead_holder_on_another_host_is_taken_over_and_named(tmp_path, caplog):
    path = _of_another_host(tmp_path)
    os.utime(path, (time.time() - 3600,) * 2)
    with hold(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert "was held by process 7 of host elsewhere" in caplog.text


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.02)
    with hold(tmp_path):
        os.utime(tmp_path / ".lock.json", (0, 0))
        deadline = time.monotonic() + 5
        while (tmp_path / ".lock.json").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
