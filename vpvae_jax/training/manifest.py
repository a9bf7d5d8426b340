"""A list of a directory's files with the sha256 of each, by which any change of them is found."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any

from vpvae_jax.runtime.files import sha256

NAME = "manifest.json"
_NOT_LISTED = {NAME, "commit_success.txt"}  # Orbax adds the latter last, and reads nothing from it
_METADATA, _WRITTEN_LAST = "_CHECKPOINT_METADATA", "commit_timestamp_nsecs"  # Orbax adds the time last


def write_manifest(directory: pathlib.Path) -> None:
    """List every file below a directory in its `manifest.json`: `{"files": {path: sha256}, "sha256": of those}`."""
    files = {name: _sha256(directory / name) for name in _files(directory)}
    with open(directory / NAME, "w") as file:
        json.dump({"files": files, "sha256": _digest(files)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def damage(directory: pathlib.Path) -> str:
    """What is wrong with a directory by its manifest, empty if nothing; reads every file."""
    try:
        manifest = _object((directory / NAME).read_bytes())
    except FileNotFoundError:
        return f"it has no {NAME}"
    except OSError as error:
        return f"its {NAME} cannot be read ({error.strerror})"
    files = manifest.get("files")
    if not isinstance(files, dict) or manifest.get("sha256") != _digest(files):
        return f"its {NAME} has changed"
    found = _files(directory)
    if lacking := files.keys() - found:
        return f"{min(lacking)} is missing"
    if added := found - files.keys():
        return f"{min(added)} was added"
    for name, expected in files.items():
        try:
            is_same = _sha256(directory / name) == expected
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if not is_same:
            return f"{name} has changed"
    return ""


def _files(directory: pathlib.Path) -> set[str]:
    paths = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    return paths - _NOT_LISTED


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object, `{}` for anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _sha256(path: pathlib.Path) -> str:
    if path.name == _METADATA:
        return _digest({**_object(path.read_bytes()), _WRITTEN_LAST: None})
    return sha256(path)
