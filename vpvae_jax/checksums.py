"""The sha256 of files."""

from __future__ import annotations

import hashlib
import pathlib

_CHUNK_BYTES = 2**20


def sha256(path: pathlib.Path) -> str:
    """Of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
