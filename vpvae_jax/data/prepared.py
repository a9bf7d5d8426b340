"""Prepared TFDS data sets: finding them, making our own on first use, and reading them without TensorFlow.

Data sets of our own are named by whoever reads them: `own` maps names to module and class of their builders.
"""

from __future__ import annotations

import importlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

from vpvae_jax.data.sources import TfdsSource
from vpvae_jax.runtime.errors import DataError

Own = Mapping[str, tuple[str, str]]
_IMAGE_KEY = "image"
_IMAGE_NAME_KEYS = ("name", "file_name", "image/filename")
_AUDIO_NAME_KEYS = ("id", "name", "client_id")  # librispeech, speech, common_voice


def image_source(name: str, split: str, data_dir: str | None, own: Own) -> TfdsSource:
    """A split of a data set of images, prepared as array_record.

    Args:
        name: name of the data set below `data_dir` (`coco/2017`), or path of a prepared version directory.
        split: with TFDS slicing, `train[:90%]`; splits can be summed.
        data_dir: where data sets are; default: TFDS' own (`~/tensorflow_datasets`, or `TFDS_DATA_DIR`).
        own: data sets that are prepared on first use, by name: module and class.

    Raises:
        DataError: no such data set or split, no images in it, or a file format without random access.
    """
    builder = tfds.builder_from_directory(prepared_directory(name, data_dir, own))
    if _IMAGE_KEY not in builder.info.features:
        raise DataError(f"data set {name} has features {', '.join(builder.info.features)}: expected one named image")
    try:
        examples = builder.as_data_source(split, decoders={_IMAGE_KEY: tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise _not_random_access(name, builder.data_path) from error
    except (ValueError, KeyError) as error:
        raise _no_split(name, split, builder.info.splits) from error
    return TfdsSource(examples, split, _IMAGE_KEY, _IMAGE_NAME_KEYS)


def audio_source(name: str, split: str, data_dir: str | None, keys: Sequence[str], own: Own) -> TfdsSource:
    """A split of a data set of recordings, prepared as array_record.

    The feature class `Audio` needs TensorFlow and is not used. What it stores is a tensor of integers, or a string of
    bytes if the data set was made with `lazy_decode`. (tensorflow_datasets/core/features/audio_feature.py)

    Args:
        name: see `image_source`.
        split: see `image_source`; sums such as `train_clean100+train_clean360` are common here.
        data_dir: see `image_source`.
        keys: names that the feature with the audio may have; the first one present is read.
        own: see `image_source`.

    Raises:
        DataError: no such data set, split or feature, or a file format without random access.
    """
    directory = prepared_directory(name, data_dir, own)
    features = json.loads((directory / "features.json").read_text()).get("featuresDict", {}).get("features", {})
    key = next((key for key in keys if key in features), None)
    if key is None:
        raise DataError(f"data set {name} has features {', '.join(features)}: expected one named {' or '.join(keys)}")
    info = tfds.core.dataset_info.read_proto_from_builder_dir(directory)
    if info.file_format != "array_record":
        raise _not_random_access(name, directory)
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
    name_keys = tuple(key for key in _AUDIO_NAME_KEYS if _is_text(features.get(key, {})))[:1]
    parsed = {key: _stored(name, key, features[key])} | {key: tfds.features.Text() for key in name_keys}
    examples = _ParsedSource(grain.sources.ArrayRecordDataSource(instructions), tfds.features.FeaturesDict(parsed))
    sample_rate = int(features[key].get("audio", {}).get("sampleRate", 0)) or None
    return TfdsSource(examples, split, key, name_keys, sample_rate)


def prepared_directory(name: str, data_dir: str | None, own: Own) -> pathlib.Path:
    """The newest version directory of a data set; those of our own are prepared on first use.

    Args:
        name: see `image_source`.
        data_dir: see `image_source`.
        own: see `image_source`.

    Raises:
        DataError: no such data set, or several below the name.
    """
    if name in own:
        return _prepare(*own[name], data_dir)
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


class _ParsedSource(Sequence):
    """Examples of array_record files; only some of their features are parsed."""

    def __init__(self, records: grain.sources.ArrayRecordDataSource, features: tfds.features.FeaturesDict):
        self._records, self._features = records, features

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index):
        return self._features.deserialize_example_np(self._records[index])


def _not_random_access(name: str, directory: pathlib.Path) -> DataError:
    return DataError(
        f"data set {name} at {directory} cannot be read at random: prepare it with --file_format=array_record"
    )


def _no_split(name: str, split: str, splits: Sequence[str]) -> DataError:
    return DataError(f"data set {name} has no split {split!r}: it has {', '.join(splits)}")


def _is_text(feature: dict[str, Any]) -> bool:
    return "text" in feature or (_dtype(feature) == "string" and not _shape(feature))


def _dtype(feature: dict[str, Any]) -> str | None:
    return feature.get("tensor", feature.get("audio", {})).get("dtype")


def _shape(feature: dict[str, Any]) -> list[str]:
    return feature.get("tensor", feature.get("audio", {})).get("shape", {}).get("dimensions", [])


def _stored(name: str, key: str, feature: dict[str, Any]) -> tfds.features.FeatureConnector:
    """The feature that parses stored audio: a string of bytes, or integers `(samples,)`, `(samples, c)`."""
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
        # Another process prepared it in the meantime and moved it to its place first.
        builder = builder_class(data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            raise
    return pathlib.Path(builder.data_path)
