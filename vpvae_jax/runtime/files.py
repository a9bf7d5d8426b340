"""Files that are replaced as a whole, and checksums."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import pathlib
import platform
from typing import Any

import psutil

from vpvae_jax.runtime.errors import CheckpointError

_CHUNK_BYTES = 2**20
_numbers = itertools.count()  # of the temporary files of this process


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Write a file so that it is either the old or the new one at any moment, whoever else writes it.

    What writers of this host that were killed have left beside it is deleted.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{next(_numbers)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)
    for other in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(platform.node())}.*.tmp"):
        pid = other.name.split(".")[-3]
        if not (pid.isdigit() and psutil.pid_exists(int(pid))):
            other.unlink(missing_ok=True)


def is_temporary(name: str, *, of: str) -> bool:
    """Whether a name is of a file that a process is writing, or has left, on its way to another name."""
    return name.startswith(f".{of}.") and name.endswith(".tmp")


def _sync_directory(directory: pathlib.Path) -> None:
    """Have the names in a directory survive a loss of power, where the system can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems have no such thing
        pass
    finally:
        os.close(descriptor)


def write_text(path: pathlib.Path, content: str) -> None:
    """Write a text so that the file is either the old or the new one at any moment; see `write_bytes`."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))  # names of files may be any bytes


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
