"""A tokenizer on disk: one safetensors file, replaced as a whole, that describes and verifies itself.

`tokenizer.json` beside it is a copy of the description for people; nothing reads it.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vpvae_jax.runtime.errors import CheckpointError
from vpvae_jax.runtime.files import is_temporary, write_bytes, write_text

WEIGHTS, DESCRIPTION = "weights.safetensors", "tokenizer.json"
_ABOUT, _DIGEST = "vpvae_jax", "sha256"  # keys of the file's metadata


def write(directory: pathlib.Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write a tokenizer; at any moment the directory holds the old one or the new one, whoever else writes.

    Args:
        directory: made if it does not exist.
        arrays: by name.
        about: what to know of them, for JSON.

    Raises:
        CheckpointError: the directory holds something else, which would be lost among it.
    """
    check_free(directory)
    text = json.dumps(about, indent=2, allow_nan=False)
    content = safetensors.numpy.save(dict(arrays), {_ABOUT: text, _DIGEST: _digest(text, arrays)})
    directory.mkdir(parents=True, exist_ok=True)
    write_bytes(directory / WEIGHTS, content)
    write_text(directory / DESCRIPTION, text + "\n")


def check_free(directory: pathlib.Path) -> None:
    """Raise CheckpointError unless a directory is missing, empty or holds a tokenizer alone."""
    remedy = "expected a directory that is missing, empty or holds only a tokenizer: choose another"
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file: {remedy}")
    if not directory.exists():
        return
    if other := sorted(path.name for path in directory.iterdir() if not _is_ours(path.name)):
        raise CheckpointError(f"{directory} holds {other[0]}: {remedy}")
    if (directory / WEIGHTS).exists() and not (directory / DESCRIPTION).exists():
        read(directory)  # weights of another program are not replaced


def _is_ours(name: str) -> bool:
    return any(name == ours or is_temporary(name, of=ours) for ours in (WEIGHTS, DESCRIPTION))


def read(directory: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and the description that `write` was given; nothing in the file is executed.

    Raises:
        CheckpointError: no tokenizer there, one that cannot be read, or a damaged one.
    """
    path = directory / WEIGHTS
    if not path.exists():
        fact = "holds no tokenizer" if directory.exists() else "does not exist"
        raise CheckpointError(f"{directory} {fact}: expected a tokenizer, which training or --mode=fit_codebook makes")
    try:
        with safetensors.safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}): look at its permissions") from error
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise damaged(directory, " ".join(str(error).split())) from error
    if _ABOUT not in metadata:
        raise CheckpointError(
            f"{path} was not stored by this version of vpvae_jax: use the version that wrote it, or fit the tokenizer "
            f"again (--mode=fit_codebook)"
        )
    if metadata.get(_DIGEST) != _digest(metadata[_ABOUT], arrays):
        raise damaged(directory, "its content has changed since it was written")
    try:
        return arrays, dict(json.loads(metadata[_ABOUT]))
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(directory, f"its description is no JSON object: {error}") from error


def damaged(directory: pathlib.Path, reason: str) -> CheckpointError:
    """The error for a tokenizer that is not what was written."""
    return CheckpointError(
        f"the tokenizer in {directory} is damaged ({reason}): restore it from a copy, or fit another one "
        f"(--mode=fit_codebook)"
    )


def sha256(directory: pathlib.Path) -> str:
    """The digest of a stored tokenizer, without reading its arrays; empty if there is none that can be read."""
    try:
        with safetensors.safe_open(directory / WEIGHTS, "np") as file:
            return (file.metadata() or {}).get(_DIGEST, "")
    except (OSError, safetensors.SafetensorError):
        return ""


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
