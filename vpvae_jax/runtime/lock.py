"""Directories that one process holds at a time."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import pathlib
import platform
import threading
import time
from collections.abc import Iterator

import filelock

from vpvae_jax.runtime.errors import CheckpointError, ConfigError
from vpvae_jax.runtime.files import read_json, write_json

_LOG = logging.getLogger(__name__)
_LOCK, _HOLDER = ".lock", ".lock.json"
_BEAT_SECONDS = 10.0  # the holder touches its file as often
_LOST_SECONDS = 60.0  # a holder on another host that has not done so for as long has died


@contextlib.contextmanager
def hold(directory: pathlib.Path) -> Iterator[None]:
    """Hold a directory, which is made if it does not exist, until the block or the process ends.

    The lock of a process of this host ends with it. Other hosts may not see it: the holder also writes who it is, and
    touches that file while it lives.

    Raises:
        ConfigError: another process holds it; its host, number and start are named.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(directory / _LOCK, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise _held(directory) from error
    try:
        _wait_for_other_host(directory)
        now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
        write_json(directory / _HOLDER, {"host": platform.node(), "pid": os.getpid(), "since": now})
        ended = threading.Event()
        beat = threading.Thread(target=_beat, args=(directory / _HOLDER, ended), name="lock", daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            (directory / _HOLDER).unlink(missing_ok=True)
    finally:
        lock.release()


def _beat(path: pathlib.Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_SECONDS):
        with contextlib.suppress(OSError):  # of a network file system: the next one may do
            os.utime(path)


def _held(directory: pathlib.Path) -> ConfigError:
    return ConfigError(
        f"another process is at work in {directory} ({_holder(directory)}): wait for it, stop it, or choose another "
        f"directory"
    )


def _holder(directory: pathlib.Path) -> str:
    try:
        holder = read_json(directory / _HOLDER)
        return f"process {holder['pid']} of host {holder['host']} since {holder['since']}"
    except (OSError, CheckpointError, KeyError, TypeError):
        return "it has not said which yet"


def _wait_for_other_host(directory: pathlib.Path) -> None:
    """Return once no process of another host holds the directory, ConfigError if one does.

    A file system may not tell one host of the locks of another: a holder there is alive if it touches its file.
    """
    path = directory / _HOLDER
    try:
        if read_json(path)["host"] == platform.node():
            return  # it has died: otherwise it would have the lock
        seen = path.stat().st_mtime
    except (OSError, CheckpointError, KeyError, TypeError):
        return
    (directory / _LOCK).touch()
    age = (directory / _LOCK).stat().st_mtime - seen  # by the clock of the file system
    deadline = time.monotonic() + max(0.0, _LOST_SECONDS - age)
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime != seen:
                raise _held(directory)
        time.sleep(min(1.0, _BEAT_SECONDS))
    _LOG.warning(
        "%s was held by %s, which has given no sign for %.0f s: taking it over",
        directory,
        _holder(directory),
        _LOST_SECONDS,
    )
