"""Where records come from, still encoded: files of a folder, or a split of a prepared TFDS data set.

A source is a random access sequence of `Record`s, which grain shuffles, shards and resumes.
"""

from __future__ import annotations

import collections
import errno
import hashlib
import io
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vpvae_jax.runtime.console import visible
from vpvae_jax.runtime.errors import DataError

_NUM_COMPARED = 16  # records; their contents stand for all
_PASSING_ERRORS = (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT)
_RETRY_SECONDS = (0.1, 1.0)
_NUM_SUFFIXES = 5  # that are named of the files that are passed over
_HOLDOUT_EVERY = 20  # without split subfolders, each 20th file of a folder is for validation


class Record(NamedTuple):
    """One example as it is stored: the bytes of a file, or the integer samples that TFDS keeps."""

    name: str
    encoded: bytes | np.ndarray


class FolderSource(Sequence):
    """Files below a folder, in the order of their paths.

    Args:
        root: the folder.
        names: paths of the files below it, in order; they name the records.
        passed_over: how many other files are there, by suffix.
    """

    def __init__(self, root: pathlib.Path, names: list[str], passed_over: Mapping[str, int] | None = None):
        self._root, self._names = root, names
        self.passed_over = dict(passed_over or {})

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> list[str]:
        """Paths of the files below the folder, in order."""
        return self._names

    @property
    def place(self) -> str:
        """Where the records are, for people to read."""
        return str(self._root.absolute())

    def identity(self) -> str:
        """Number and names of the files: a resumed run must find them again."""
        names = "\n".join(self._names)
        return f"{len(self)} files, names {hashlib.sha256(os.fsencode(names)).hexdigest()[:16]}"

    def open(self, index: int) -> BinaryIO:
        """Open a file, to look at its header without reading all of it."""
        return open(self._root / self._names[index], "rb")

    def __getitem__(self, index):
        name = self._names[index]
        try:
            encoded = _read(self._root / name)
        except OSError:
            encoded = b""  # gone or unreadable: the decoder skips and counts it like any damaged file
        return Record(name, encoded)


def _read(path: pathlib.Path) -> bytes:
    """The content of a file; what a network file system refuses for a moment is tried again."""
    for seconds in _RETRY_SECONDS:
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno not in _PASSING_ERRORS:
                raise
            time.sleep(seconds)
    return path.read_bytes()


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

    passed_over: Mapping[str, int] = {}

    @property
    def place(self) -> str:
        """Where the records are, for people to read."""
        return f"TFDS, split {self._split}"

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
        return _listed(root, split, suffixes, noun)
    source = _listed(root, "", suffixes, noun)
    if split == "all":
        return source
    if split not in ("train", "validation") or any((root / name).is_dir() for name in ("train", "validation", "test")):
        raise DataError(f"{root} has no subfolder {split!r}: make one, or choose other splits (--config.eval.splits)")
    if len(source) < 2:
        raise DataError(f"{root} holds a single {noun}, which cannot be both trained and validated on: add {noun}s")
    first, step = (_HOLDOUT_EVERY - 1, _HOLDOUT_EVERY) if len(source) >= _HOLDOUT_EVERY else (len(source) - 1, 1)
    names = source.names[first::step]
    if split == "train":
        held_out = set(names)
        names = [name for name in source.names if name not in held_out]
    return FolderSource(root, names, source.passed_over)


def _listed(root: pathlib.Path, below: str, suffixes: tuple[str, ...], noun: str) -> FolderSource:
    """The files of a folder, or of one below it."""
    names, passed_over = [], collections.Counter[str]()
    for name in _walk(root, below):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in suffixes:
            names.append(name)
        else:
            passed_over[suffix or "without a suffix"] += 1
    if not names:
        seen = f", but {_counted(passed_over)}" if passed_over else ""
        raise DataError(f"{root / below} holds no {noun}{seen}: expected {', '.join(suffixes)} files in it or below it")
    return FolderSource(root, sorted(names, key=lambda name: name.split("/")), passed_over)


def _walk(root: pathlib.Path, below: str) -> Iterator[str]:
    """Paths below the root of files in a folder and its subfolders; links are followed, each folder is read once."""
    start = (root / below).stat()
    seen = {(start.st_dev, start.st_ino)}
    waiting = [below]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):  # of two links to a folder the first is read
                # Names with a dot in front are no content: macOS leaves `._name.wav` beside files of other systems.
                if entry.name.startswith("."):
                    continue
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    status = entry.stat()
                    if (identity := (status.st_dev, status.st_ino)) not in seen:
                        seen.add(identity)
                        waiting.append(name)
                elif entry.is_file():
                    yield name


def _counted(passed_over: Mapping[str, int]) -> str:
    """`3 .tif, 1 .heic`, the most frequent first."""
    most = collections.Counter(passed_over).most_common(_NUM_SUFFIXES)
    return ", ".join(f"{number} {suffix}" for suffix, number in most)


def described(source: FolderSource | TfdsSource, nouns: str, name: str) -> str:
    """How many records there are, of what, where, and which files were passed over: for people to read."""
    passed_over = f" (passed over: {_counted(source.passed_over)})" if source.passed_over else ""
    return visible(f"{len(source):,} {nouns} of {name} in {source.place}{passed_over}")
