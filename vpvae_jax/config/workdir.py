"""What a work directory holds, and the config that it was trained with."""

from __future__ import annotations

import pathlib

from vpvae_jax.config import keys, schema
from vpvae_jax.config.schema import Config
from vpvae_jax.runtime.errors import CheckpointError, ConfigError
from vpvae_jax.runtime.files import read_json

CONFIG = "config.json"
DATA = "data.json"  # what the training set was, for a resumed run to compare
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged_checkpoints"  # quarantined when a run resumed from an earlier one
METRICS = "metrics.jsonl"
PROFILE = "profile"
TENSORBOARD = "tensorboard"
TOKENIZER = "tokenizer"
EVAL = "eval"
DONE = "done.json"  # written once a training has made its report, for scripts that start it again

# Sections that each mode after the training may set for itself, besides whatever affects only the codebook.
_CHOSEN_AFTERWARDS = ("data", "codebook", "eval")
# Sections that say what a checkpoint holds.
_OF_THE_CHECKPOINT = ("model", "quantizer")
_ABSENT = object()


def read_config(workdir: pathlib.Path) -> Config:
    """The config that the work directory was trained with.

    Raises:
        CheckpointError: no config, a damaged one, or one that another version stored.
    """
    path = workdir / CONFIG
    if not path.exists():
        raise CheckpointError(f"{workdir} holds no {CONFIG}: train first (--mode=train), or name another --workdir")
    try:
        return schema.from_dict(read_json(path))
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def has_results(workdir: pathlib.Path) -> bool:
    """Whether there is something to lose: a finished checkpoint, a tokenizer or an evaluation."""
    has_checkpoint = any(path.name.isdigit() for path in (workdir / CHECKPOINTS).glob("*"))
    return has_checkpoint or (workdir / TOKENIZER).exists() or (workdir / EVAL).exists()


def with_stored_training(config: Config, workdir: pathlib.Path) -> Config:
    """The stored config with what a later mode may set for itself: data, codebook, evaluation."""
    merged = read_config(workdir)
    for section in _CHOSEN_AFTERWARDS:
        setattr(merged, section, getattr(config, section))
    values = config.flatten()
    for key in config.keys_that_affect("codebook"):
        keys.assign(merged, key, values[key])
    return merged


def check_same_config(config: Config, workdir: pathlib.Path, *, same_training: bool) -> None:
    """Raise ConfigError, naming the keys, if the work directory was trained with another config.

    Args:
        config: of this command.
        workdir: of the training.
        same_training: compare everything that affects the state; False: only network and quantizer, as an evaluation
            needs.
    """
    mine, stored = config.flatten(), read_config(workdir).flatten()
    bound = config.keys_that_affect("state") | (stored.keys() - mine.keys())
    if not same_training:
        bound = {key for key in bound if key.partition(".")[0] in _OF_THE_CHECKPOINT}
    differing = [
        f"{key} is {mine.get(key, 'absent')} but {stored.get(key, 'absent')} there"
        for key in sorted(bound)
        if mine.get(key, _ABSENT) != stored.get(key, _ABSENT)
    ]
    if differing:
        raise ConfigError(
            f"{workdir} holds another config ({'; '.join(differing)}): use another --workdir or the same values"
        )
