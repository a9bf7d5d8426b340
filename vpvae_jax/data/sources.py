"""Where records come from, still encoded: files of a folder, or a split of a prepared TFDS data set.

A source is a random access sequence of `Record`s, which grain shuffles, shards and resumes.
"""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vpvae_jax.runtime.errors import DataError

_NUM_COMPARED = 16  # records; their contents stand for all
_HOLDOUT_EVERY = 20  # without split subfolders, each 20th file of a folder is for validation


class Record(NamedTuple):
    """One example as it is stored: the bytes of a file, or the integer samples that TFDS keeps."""

    name: str
    encoded: bytes | np.ndarray


class FolderSource(Sequence):
    """Files below a folder, in the order of their paths.

    Args:
        root: the folder; records are named by their paths below it.
        files: the files, in order.
    """

    def __init__(self, root: pathlib.Path, files: list[pathlib.Path]):
        self._root, self._files = root, files

    def __len__(self) -> int:
        return len(self._files)

    def identity(self) -> str:
        """Number and names of the files: a resumed run must find them again."""
        names = "\n".join(str(file.relative_to(self._root)) for file in self._files)
        return f"{len(self)} files, names {hashlib.sha256(os.fsencode(names)).hexdigest()[:16]}"

    def open(self, index: int) -> BinaryIO:
        """Open a file, to look at its header without reading all of it."""
        return open(self._files[index], "rb")

    def __getitem__(self, index):
        file = self._files[index]
        try:
            encoded = file.read_bytes()
        except OSError:
            encoded = b""  # gone or unreadable: the decoder skips and counts it like any damaged file
        return Record(str(file.relative_to(self._root)), encoded)


class TfdsSource(Sequence):
    """Records of one split of a prepared TFDS data set, still encoded.

    Args:
        examples: one dict an example.
        split: its name.
        key: feature that holds the record.
        name_keys: features that may name an example; the first one present is used, if it is a text and not empty.
        sample_rate: in Hz, of recordings that are stored as arrays; None if it is not known.
    """

    def __init__(
        self,
        examples: Sequence[dict[str, Any]],
        split: str,
        key: str,
        name_keys: Sequence[str] = (),
        sample_rate: int | None = None,
    ):
        self._examples, self._split, self._key, self._name_keys = examples, split, key, name_keys
        self.sample_rate = sample_rate

    def __len__(self) -> int:
        return len(self._examples)

    def identity(self) -> str:
        """Number of records of the split: a resumed run must find as many again."""
        return f"{len(self)} records of {self._split}"

    def open(self, index: int) -> BinaryIO:
        """Open the bytes of a record."""
        return io.BytesIO(self[index].encoded)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        example = self._examples[index]
        name = next((example[key] for key in self._name_keys if key in example), b"")
        return Record(
            name.decode() if isinstance(name, bytes) and name else f"{self._split}[{index}]", example[self._key]
        )


def fingerprint(source: FolderSource | TfdsSource) -> str:
    """Digest of what hosts that read parts of one stream must share: `identity`, names and contents of some records."""
    digest = hashlib.sha256(source.identity().encode())
    for index in range(0, len(source), max(1, len(source) // _NUM_COMPARED)):
        try:
            name, encoded = source[index]
        except Exception as error:  # a damaged record: whoever reads it reports it
            name, encoded = type(error).__name__, b""
        digest.update(os.fsencode(name))
        digest.update(encoded if isinstance(encoded, bytes) else np.ascontiguousarray(encoded).tobytes())
    return digest.hexdigest()


def folder_source(path: str, split: str, suffixes: tuple[str, ...], noun: str) -> FolderSource:
    """Files of a folder, searched recursively.

    A subfolder named like the split (`train`, `validation`, `test`) is the split. Without one, each 20th file (at
    least one) is `validation` and the others are `train`; `all` is every file below the folder.

    Args:
        path: the folder.
        split: `train`, `validation`, `test` or `all`.
        suffixes: suffixes of the files, in lower case.
        noun: what such a file is, for messages: `image`.

    Raises:
        DataError: no such folder, no such file in it, or a split that the folder does not have.
    """
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: --config.data.path must name a folder of {', '.join(suffixes)} files")
    if split != "all" and (root / split).is_dir():
        return FolderSource(root, _files(root / split, suffixes, noun))
    files = _files(root, suffixes, noun)
    if split == "all":
        return FolderSource(root, files)
    if split not in ("train", "validation") or any((root / name).is_dir() for name in ("train", "validation", "test")):
        raise DataError(f"{root} has no subfolder {split!r}: make one, or choose other splits (--config.eval.splits)")
    if len(files) < 2:
        raise DataError(f"{root} holds a single {noun}, which cannot be both trained and validated on: add {noun}s")
    held_out = set(files[_HOLDOUT_EVERY - 1 :: _HOLDOUT_EVERY] or files[-1:])
    return FolderSource(root, [file for file in files if (file in held_out) == (split == "validation")])


def _files(root: pathlib.Path, suffixes: tuple[str, ...], noun: str) -> list[pathlib.Path]:
    # Names with a dot in front are no content: macOS leaves `._name.wav` beside files on other file systems.
    files = sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise DataError(f"{root} holds no {noun}: expected {', '.join(suffixes)} files in it or below it")
    return files
