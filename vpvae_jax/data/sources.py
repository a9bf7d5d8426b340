"""Where encoded images come from: TFDS data sets in array_record format, or a folder of image files.

A source is a random access sequence of `Record`s, which is what grain shuffles, shards and resumes.
"""

from __future__ import annotations

import hashlib
import io
import pathlib
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import tensorflow_datasets as tfds

from vpvae_jax.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_HOLDOUT_EVERY = 20  # of a folder without split subfolders, each 20th file is for validation


class Record(NamedTuple):
    """One image as it is stored."""

    name: str
    encoded: bytes


class FolderSource(Sequence):
    """Image files below a folder, recursively, in the order of their paths."""

    def __init__(self, root: pathlib.Path, files: list[pathlib.Path]):
        self._root, self._files = root, files

    def __len__(self) -> int:
        return len(self._files)

    def identity(self) -> str:
        """What a resumed run must find again: number and names of the files."""
        names = "\n".join(str(file.relative_to(self._root)) for file in self._files)
        return f"{len(self)} files, names {hashlib.sha256(names.encode()).hexdigest()[:16]}"

    def open(self, index: int) -> BinaryIO:
        """The image's file, to look at its header without reading all of it."""
        return open(self._files[index], "rb")

    def __getitem__(self, index):
        file = self._files[index]
        try:
            encoded = file.read_bytes()
        except OSError:
            encoded = b""  # gone or unreadable: skipped and counted by the decoder like any damaged file
        return Record(str(file.relative_to(self._root)), encoded)


class TfdsSource(Sequence):
    """The images of one split of a prepared TFDS data set, still encoded."""

    def __init__(self, data_source, split: str):
        self._data_source, self._split = data_source, split

    def __len__(self) -> int:
        return len(self._data_source)

    def identity(self) -> str:
        """What a resumed run must find again: number of records of the split."""
        return f"{len(self)} records of {self._split}"

    def open(self, index: int) -> BinaryIO:
        """The image's bytes."""
        return io.BytesIO(self[index].encoded)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        example = self._data_source[index]
        name = example.get("name", example.get("file_name", example.get("image/filename", b"")))
        return Record(
            name.decode() if isinstance(name, bytes) and name else f"{self._split}[{index}]", example["image"]
        )


def folder_source(path: str, split: str) -> FolderSource:
    """Images of a folder.

    A subfolder named like the split (`train`, `validation`, `test`) is the split. Without one, each 20th file (at
    least one) is `validation` and the others are `train`; `all` is every file below the folder.

    Args:
        path: the folder.
        split: `train`, `validation`, `test` or `all`.

    Raises:
        DataError: no such folder, no image in it, or a split that the folder does not have.
    """
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder: --config.data.path must name a folder of {', '.join(IMAGE_SUFFIXES)} files"
        )
    if split != "all" and (root / split).is_dir():
        files = _image_files(root / split)
        if not files:
            raise DataError(
                f"{root / split} holds no image: expected {', '.join(IMAGE_SUFFIXES)} files in it or below it"
            )
        return FolderSource(root, files)
    files = _image_files(root)
    if not files:
        raise DataError(f"{root} holds no image: expected {', '.join(IMAGE_SUFFIXES)} files in it or below it")
    if split == "all":
        return FolderSource(root, files)
    if split not in ("train", "validation") or any((root / name).is_dir() for name in ("train", "validation", "test")):
        raise DataError(f"{root} has no subfolder {split!r}: make one, or choose other splits (--config.eval.splits)")
    if len(files) < 2:
        raise DataError(f"{root} holds a single image, which cannot be both trained and validated on: add images")
    held_out = files[_HOLDOUT_EVERY - 1 :: _HOLDOUT_EVERY] or files[-1:]
    chosen = held_out if split == "validation" else [file for file in files if file not in set(held_out)]
    return FolderSource(root, chosen)


def tfds_source(name: str, split: str, data_dir: str | None = None) -> TfdsSource:
    """A split of a TFDS data set that was prepared as array_record; TensorFlow is not needed.

    Args:
        name: a data set name below `data_dir` (`coco/2017`), or the path of a prepared version directory. `photos` is
            prepared on first use.
        split: a split with TFDS slicing, `train[:90%]`.
        data_dir: where data sets lie; default: TFDS' own (`~/tensorflow_datasets`, or `TFDS_DATA_DIR`).

    Raises:
        DataError: no such data set or split, no `image` feature, or a file format without random access.
    """
    builder = _photos_builder(data_dir) if name == "photos" else _prepared_builder(name, data_dir)
    if "image" not in builder.info.features:
        raise DataError(f"data set {name} has features {', '.join(builder.info.features)}: expected one named image")
    try:
        data_source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise DataError(
            f"data set {name} at {builder.data_path} cannot be read at random: "
            f"prepare it with --file_format=array_record"
        ) from error
    except (ValueError, KeyError) as error:
        splits = ", ".join(builder.info.splits)
        raise DataError(f"data set {name} has no split {split!r}: it has {splits}") from error
    return TfdsSource(data_source, split)


def _image_files(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in root.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


def _photos_builder(data_dir: str | None) -> tfds.core.DatasetBuilder:
    from vpvae_jax.data.photos import Photos  # importing it registers the data set with TFDS

    builder = Photos(data_dir=data_dir, file_format="array_record")
    try:
        builder.download_and_prepare()
    except OSError:
        # Another process prepared it meanwhile and was first to move it to its place.
        builder = Photos(data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            raise
    return builder


def _prepared_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    root = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    for candidate in (pathlib.Path(name).expanduser(), root / name):
        versions = sorted(
            (info.parent for info in candidate.glob("**/dataset_info.json")),
            key=lambda directory: [int(part) if part.isdigit() else -1 for part in directory.name.split(".")],
        )
        configs = {version.parent for version in versions if version != candidate}
        if len(configs) > 1:
            names = ", ".join(sorted(str(config.relative_to(candidate)) for config in configs))
            raise DataError(f"{candidate} holds several data sets ({names}): name one of them in --config.data.name")
        if versions:
            return tfds.builder_from_directory(versions[-1])
    raise DataError(
        f"no prepared TFDS data set {name!r} as a path or below {root}: prepare it with "
        f"`tfds build {name} --file_format=array_record`, or set --config.data.data_dir"
    )
