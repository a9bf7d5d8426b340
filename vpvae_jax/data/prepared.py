"""Prepared TFDS data sets: finding them, making our own on first use, and reading audio without TensorFlow."""

from __future__ import annotations

import importlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
import tensorflow_datasets as tfds

from vpvae_jax.errors import DataError

# Data sets of our own, prepared on first use: module and class.
_OWN = {
    "photos": ("vpvae_jax.data.photos", "Photos"),
    "photo_tiles": ("vpvae_jax.data.photo_tiles", "PhotoTiles"),
    "speech": ("vpvae_jax.data.speech", "Speech"),
}
_NAME_KEYS = ("id", "name", "client_id")  # librispeech, speech, common_voice


class AudioExamples(NamedTuple):
    """One split of a data set with audio: what `TfdsSource` reads from."""

    examples: Sequence[dict[str, Any]]
    key: str  # of the audio
    name_key: str | None
    sample_rate: int | None  # Hz, None if the data set does not state it


class _ParsedSource(Sequence):
    """Examples of array_record files, of which only some features are parsed."""

    def __init__(self, records: grain.sources.ArrayRecordDataSource, features: tfds.features.FeaturesDict):
        self._records, self._features = records, features

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index):
        return self._features.deserialize_example_np(self._records[index])


def prepared_directory(name: str, data_dir: str | None) -> pathlib.Path:
    """The newest version directory of a data set; `photos`, `photo_tiles` and `speech` are prepared on first use.

    Raises:
        DataError: no such data set, or several below the name.
    """
    if name in _OWN:
        return _prepare(*_OWN[name], data_dir)
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
            return versions[-1]
    raise DataError(
        f"no prepared TFDS data set {name!r} as a path or below {root}: prepare it with "
        f"`tfds build {name} --file_format=array_record`, or set --config.data.data_dir"
    )


def not_random_access(name: str, directory: pathlib.Path) -> DataError:
    """What to raise about a data set in tfrecord format."""
    return DataError(
        f"data set {name} at {directory} cannot be read at random: prepare it with --file_format=array_record"
    )


def audio_examples(name: str, directory: pathlib.Path, split: str, keys: Sequence[str]) -> AudioExamples:
    """Audio and names of a split, without the classes of its features, of which `Audio` needs TensorFlow.

    `Audio` is stored like a tensor of integers, or like a string of bytes if the data set was made with
    `lazy_decode`. (tensorflow_datasets/core/features/audio_feature.py)

    Args:
        name: of the data set, for messages.
        directory: its version directory.
        split: with TFDS slicing and sums, `train_clean100+train_clean360`.
        keys: names that the feature may have; the first one present is read.

    Raises:
        DataError: no such feature or split, or a file format without random access.
    """
    features = json.loads((directory / "features.json").read_text()).get("featuresDict", {}).get("features", {})
    key = next((key for key in keys if key in features), None)
    if key is None:
        raise DataError(f"data set {name} has features {', '.join(features)}: expected one named {' or '.join(keys)}")
    info = tfds.core.dataset_info.read_proto_from_builder_dir(directory)
    if info.file_format != "array_record":
        raise not_random_access(name, directory)
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=info.name, filetype_suffix=info.file_format
    )
    splits = tfds.core.splits.SplitDict.from_proto(info.splits, template)
    try:
        instructions = splits[split].file_instructions
    except (ValueError, KeyError) as error:
        raise _no_split(name, split, splits) from error
    if not instructions:
        raise _no_split(name, split, splits)
    name_key = next((key for key in _NAME_KEYS if _is_text(features.get(key, {}))), None)
    parsed = {key: _stored(name, key, features[key])} | ({name_key: tfds.features.Text()} if name_key else {})
    records = grain.sources.ArrayRecordDataSource(instructions)
    sample_rate = int(features[key].get("audio", {}).get("sampleRate", 0)) or None
    return AudioExamples(_ParsedSource(records, tfds.features.FeaturesDict(parsed)), key, name_key, sample_rate)


def _no_split(name: str, split: str, splits: Sequence[str]) -> DataError:
    return DataError(f"data set {name} has no split {split!r}: it has {', '.join(splits)}")


def _is_text(feature: dict[str, Any]) -> bool:
    return "text" in feature or (_dtype(feature) == "string" and not _shape(feature))


def _dtype(feature: dict[str, Any]) -> str | None:
    return feature.get("tensor", feature.get("audio", {})).get("dtype")


def _shape(feature: dict[str, Any]) -> list[str]:
    return feature.get("tensor", feature.get("audio", {})).get("shape", {}).get("dimensions", [])


def _stored(name: str, key: str, feature: dict[str, Any]) -> tfds.features.FeatureConnector:
    """The feature with which stored audio is parsed: a string of bytes, or integers `(samples,)`, `(samples, c)`."""
    if feature.get("audio", {}).get("lazyDecode") or _is_text(feature):
        return tfds.features.Tensor(shape=(), dtype=np.bytes_)
    dtype = _dtype(feature)
    if dtype is None or not np.issubdtype(np.dtype(dtype), np.integer):
        raise DataError(
            f"data set {name} has {key} of {dtype or 'an unknown kind'}: expected audio, integer samples or bytes"
        )
    shape = tuple(None if size == "-1" else int(size) for size in _shape(feature))
    return tfds.features.Tensor(shape=shape or (None,), dtype=np.dtype(dtype))


def _prepare(module: str, class_name: str, data_dir: str | None) -> pathlib.Path:
    builder_class = getattr(importlib.import_module(module), class_name)  # TFDS knows it from here on
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    try:
        builder.download_and_prepare()
    except OSError:
        # Another process prepared it meanwhile and was first to move it to its place.
        builder = builder_class(data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            raise
    return pathlib.Path(builder.data_path)
