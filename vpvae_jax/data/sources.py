"""Where images and recordings come from, still encoded: TFDS data sets in array_record format, or a folder of files.

A source is a random access sequence of `Record`s, which is what grain shuffles, shards and resumes.
"""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from vpvae_jax.data.prepared import audio_examples, not_random_access, prepared_directory
from vpvae_jax.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
AUDIO_KEYS = ("speech", "voice", "audio")  # librispeech, common_voice, most others
_IMAGE_KEY = "image"
_IMAGE_NAME_KEYS = ("name", "file_name", "image/filename")
_NOUNS: dict[tuple[str, ...], str] = {IMAGE_SUFFIXES: "image", AUDIO_SUFFIXES: "recording"}
_NUM_COMPARED = 16  # records whose contents stand for all
_HOLDOUT_EVERY = 20  # of a folder without split subfolders, each 20th file is for validation


class Record(NamedTuple):
    """One image or recording as it is stored: the bytes of a file, or the integer samples that TFDS keeps."""

    name: str
    encoded: bytes | np.ndarray


class FolderSource(Sequence):
    """Files below a folder, recursively, in the order of their paths."""

    def __init__(self, root: pathlib.Path, files: list[pathlib.Path]):
        self._root, self._files = root, files

    def __len__(self) -> int:
        return len(self._files)

    def identity(self) -> str:
        """What a resumed run must find again: number and names of the files."""
        names = "\n".join(str(file.relative_to(self._root)) for file in self._files)
        return f"{len(self)} files, names {hashlib.sha256(os.fsencode(names)).hexdigest()[:16]}"

    def open(self, index: int) -> BinaryIO:
        """The file, to look at its header without reading all of it."""
        return open(self._files[index], "rb")

    def __getitem__(self, index):
        file = self._files[index]
        try:
            encoded = file.read_bytes()
        except OSError:
            encoded = b""  # gone or unreadable: skipped and counted by the decoder like any damaged file
        return Record(str(file.relative_to(self._root)), encoded)


class TfdsSource(Sequence):
    """The images or recordings of one split of a prepared TFDS data set, still encoded.

    Args:
        examples: one dict an example.
        split: its name.
        key: of the image or the recording.
        name_keys: of what names an example; the first one present is used, if it is text and not empty.
        sample_rate: Hz of recordings that are arrays, None if it is not known.
    """

    def __init__(
        self,
        examples: Sequence[dict],
        split: str,
        key: str = _IMAGE_KEY,
        name_keys: Sequence[str] = _IMAGE_NAME_KEYS,
        sample_rate: int | None = None,
    ):
        self._examples, self._split, self._key, self._name_keys = examples, split, key, name_keys
        self.sample_rate = sample_rate

    def __len__(self) -> int:
        return len(self._examples)

    def identity(self) -> str:
        """What a resumed run must find again: number of records of the split."""
        return f"{len(self)} records of {self._split}"

    def open(self, index: int) -> BinaryIO:
        """The image's bytes."""
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
    """What hosts that read parts of one stream must have in common: `identity`, names and contents of some records."""
    digest = hashlib.sha256(source.identity().encode())
    for index in range(0, len(source), max(1, len(source) // _NUM_COMPARED)):
        try:
            name, encoded = source[index]
        except Exception as error:  # a damaged record, of which the readers have their own errors
            name, encoded = type(error).__name__, b""
        digest.update(os.fsencode(name))
        digest.update(encoded if isinstance(encoded, bytes) else np.ascontiguousarray(encoded).tobytes())
    return digest.hexdigest()


def folder_source(path: str, split: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> FolderSource:
    """Files of a folder.

    A subfolder named like the split (`train`, `validation`, `test`) is the split. Without one, each 20th file (at
    least one) is `validation` and the others are `train`; `all` is every file below the folder.

    Args:
        path: the folder.
        split: `train`, `validation`, `test` or `all`.
        suffixes: of the files, in lower case: `IMAGE_SUFFIXES` or `AUDIO_SUFFIXES`.

    Raises:
        DataError: no such folder, no such file in it, or a split that the folder does not have.
    """
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: --config.data.path must name a folder of {', '.join(suffixes)} files")
    noun = _NOUNS.get(suffixes, "file")
    if split != "all" and (root / split).is_dir():
        return FolderSource(root, _files(root / split, suffixes, noun))
    files = _files(root, suffixes, noun)
    if split == "all":
        return FolderSource(root, files)
    if split not in ("train", "validation") or any((root / name).is_dir() for name in ("train", "validation", "test")):
        raise DataError(f"{root} has no subfolder {split!r}: make one, or choose other splits (--config.eval.splits)")
    if len(files) < 2:
        raise DataError(f"{root} holds a single {noun}, which cannot be both trained and validated on: add {noun}s")
    held_out = files[_HOLDOUT_EVERY - 1 :: _HOLDOUT_EVERY] or files[-1:]
    chosen = held_out if split == "validation" else [file for file in files if file not in set(held_out)]
    return FolderSource(root, chosen)


def tfds_source(
    name: str, split: str, data_dir: str | None = None, key: str | Sequence[str] = _IMAGE_KEY
) -> TfdsSource:
    """A split of a TFDS data set that was prepared as array_record; TensorFlow is not needed.

    Args:
        name: a data set name below `data_dir` (`coco/2017`), or the path of a prepared version directory. `photos` and
            `speech` are prepared on first use.
        split: a split with TFDS slicing, `train[:90%]`; splits can be summed, `train_clean100+train_clean360`.
        data_dir: where data sets lie; default: TFDS' own (`~/tensorflow_datasets`, or `TFDS_DATA_DIR`).
        key: of the feature: `image`, or one or several for audio, such as `AUDIO_KEYS`, of which the first is read
            that the data set has.

    Raises:
        DataError: no such data set, split or feature, or a file format without random access.
    """
    directory = prepared_directory(name, data_dir)
    if key == _IMAGE_KEY:
        return _image_source(name, directory, split)
    keys = (key,) if isinstance(key, str) else tuple(key)
    audio = audio_examples(name, directory, split, keys)
    name_keys = (audio.name_key,) if audio.name_key else ()
    return TfdsSource(audio.examples, split, audio.key, name_keys, audio.sample_rate)


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


def _image_source(name: str, directory: pathlib.Path, split: str) -> TfdsSource:
    builder = tfds.builder_from_directory(directory)
    if _IMAGE_KEY not in builder.info.features:
        raise DataError(f"data set {name} has features {', '.join(builder.info.features)}: expected one named image")
    try:
        examples = builder.as_data_source(split, decoders={_IMAGE_KEY: tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise not_random_access(name, builder.data_path) from error
    except (ValueError, KeyError) as error:
        splits = ", ".join(builder.info.splits)
        raise DataError(f"data set {name} has no split {split!r}: it has {splits}") from error
    return TfdsSource(examples, split)
