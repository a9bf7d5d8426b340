"""Files that are replaced as a whole, checksums, and directories that one process holds at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import filelock

from vpvae_jax.runtime.errors import CheckpointError, ConfigError

_CHUNK_BYTES = 2**20
_LOCK = ".lock"


def write_text(path: pathlib.Path, content: str) -> None:
    """Write a text so that the file is either the old or the new one at any moment."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:  # names of files may be any bytes
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write JSON so that the file is either the old or the new one at any moment."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Read JSON, CheckpointError if the file is damaged."""
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # of JSON, of the text's encoding
        raise CheckpointError(
            f"{path} is damaged ({error}): delete it and run the command that writes it again"
        ) from error


def sha256(path: pathlib.Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def hold(directory: pathlib.Path) -> Iterator[None]:
    """Hold a directory, which is made if it does not exist, until the block or the process ends.

    Raises:
        ConfigError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(directory / _LOCK, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ConfigError(f"another process is at work in {directory}: wait for it, or choose another") from error
    try:
        yield
    finally:
        lock.release()
