"""What a work directory holds and where; small files are replaced as a whole, never left half written."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import ml_collections

from vpvae_jax.added_keys import with_added_keys
from vpvae_jax.build import flatten
from vpvae_jax.errors import CheckpointError, ConfigError

CONFIG = "config.json"
DATA = "data.json"  # what the training set was, for a resumed run to compare
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged_checkpoints"  # moved aside by a run that went on from one before
METRICS = "metrics.jsonl"
PROFILE = "profile"
TENSORBOARD = "tensorboard"
TOKENIZER = "tokenizer"
EVAL = "eval"
DONE = "done.json"  # there once a training has come to its report, for scripts that start it again

# Keys that do not change what is trained: they may differ from run to run in one work directory.
_FREE_IN_TRAINING = (
    "codebook.",
    "checkpoint.",
    "debug.",
    "eval.",
    "log.",
    "data.eval_crop",
    "data.num_threads",
    "data.cache_mib",
    "model.remat",
    "train.shard_params",
    "loss.lpips_weights",  # where a file lies
    "loss.whisper_weights",
)
# An evaluation needs the network and the quantizer to be those of the checkpoint and chooses its own data.
_BOUND_AFTERWARDS = ("model.", "quantizer.")
_FREE_AFTERWARDS = ("data", "codebook", "eval")
_ABSENT = object()


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write JSON so that the file is either the old or the new one at any moment."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: pathlib.Path) -> Any:
    """Read JSON, CheckpointError if the file is damaged."""
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # of JSON, of the text's encoding
        raise CheckpointError(
            f"{path} is damaged ({error}): delete it and run the command that writes it again"
        ) from error


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The config that the work directory was trained with."""
    if not (workdir / CONFIG).exists():
        raise CheckpointError(f"{workdir} holds no {CONFIG}: train first (--mode=train), or name another --workdir")
    content = read_json(workdir / CONFIG)
    try:
        return with_added_keys(ml_collections.ConfigDict(content))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{workdir / CONFIG} is damaged ({error}): restore it from a copy") from error


def has_results(workdir: pathlib.Path) -> bool:
    """Whether there is something to lose: a finished checkpoint, a tokenizer or an evaluation."""
    has_checkpoint = any(path.name.isdigit() for path in (workdir / CHECKPOINTS).glob("*"))
    return has_checkpoint or (workdir / TOKENIZER).exists() or (workdir / EVAL).exists()


def with_stored_training(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The stored config with what a later mode may choose anew: data, codebook, evaluation."""
    merged = read_config(workdir)
    for section in _FREE_AFTERWARDS:
        merged[section] = config[section]
    return merged


def check_same_config(config: ml_collections.ConfigDict, workdir: pathlib.Path, *, same_data: bool) -> None:
    """Raise ConfigError, naming the keys, if the work directory was trained with another config."""
    mine, stored = flatten(config), flatten(read_config(workdir))
    differing = []
    for key in sorted(mine.keys() | stored.keys()):
        is_bound = not key.startswith(_FREE_IN_TRAINING)
        if not same_data:
            is_bound = is_bound and key.startswith(_BOUND_AFTERWARDS)
        if is_bound and mine.get(key, _ABSENT) != stored.get(key, _ABSENT):
            here, there = (values.get(key, "absent") for values in (mine, stored))
            differing.append(f"{key} is {here} but {there} there")
    if differing:
        raise ConfigError(
            f"{workdir} holds another config ({'; '.join(differing)}): use another --workdir or the same values"
        )
