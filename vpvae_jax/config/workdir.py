"""What a work directory holds, and the config that it was trained with."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from vpvae_jax.config import keys, schema
from vpvae_jax.config.schema import Config
from vpvae_jax.runtime.errors import CheckpointError, ConfigError
from vpvae_jax.runtime.files import read_json, write_json, write_text
from vpvae_jax.runtime.settings import Affects

CONFIG = "config.json"
DATA = "data.json"  # what the training set was, for a resumed run to compare
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged_checkpoints"  # quarantined when a run resumed from an earlier one
METRICS = "metrics.jsonl"
PROFILE = "profile"
TENSORBOARD = "tensorboard"
TOKENIZERS = "tokenizers"  # a directory each
EVAL = "eval"
DONE = "done.json"  # written once a training has made its report, for scripts that start it again
CURRENT = "current"  # in TOKENIZERS: the name of the one that is evaluated and loaded unless another is named

# What a command may change of the config that is stored. `train` may also train longer, and read the same examples
# from another place.
_MAY_CHANGE: dict[str, set[Affects]] = {
    "train": {"codebook", "metrics", "nothing", "source"},
    "later": {"codebook", "metrics", "nothing", "source", "reading"},
}
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


def newest_step(workdir: pathlib.Path) -> int | None:
    """Step of the newest finished checkpoint, None without one."""
    return max((int(path.name) for path in (workdir / CHECKPOINTS).glob("*") if path.name.isdigit()), default=None)


def write_config(config: Config, workdir: pathlib.Path) -> None:
    """Store the config of a training; what is stored already is not written again."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / CONFIG
    if not path.exists() or read_json(path) != config.to_dict():
        write_json(path, config.to_dict())


def overridden(workdir: pathlib.Path, values: Mapping[str, Any]) -> Config:
    """The stored config after setting values by dotted key.

    Raises:
        UserError: no config there, a key that does not exist, or a value of another type.
    """
    config = read_config(workdir)
    for key, value in values.items():
        keys.assign(config, key, value)
    return config


def check_may_follow(config: Config, workdir: pathlib.Path, mode: Literal["train", "later"]) -> None:
    """Raise ConfigError, naming keys and values, for what a command would change of the training but cannot.

    Args:
        config: of the command.
        workdir: with the config of the training.
        mode: `train`, which resumes, or a `later` mode.
    """
    mine, stored = config.flatten(), read_config(workdir).flatten()
    free = config.keys_that_affect(*_MAY_CHANGE[mode])
    if mode == "train":
        free |= {key for key in config.keys_that_affect("length") if mine[key] >= stored.get(key, 0)}
    differing = [
        f"{key} is {mine.get(key, 'absent')} but {stored.get(key, 'absent')} there"
        for key in sorted(mine.keys() | stored.keys())
        if key not in free and mine.get(key, _ABSENT) != stored.get(key, _ABSENT)
    ]
    if differing:
        raise ConfigError(
            f"{workdir} holds another config ({'; '.join(differing)}): use another --workdir or the same values"
        )


def tokenizers(workdir: pathlib.Path) -> list[str]:
    """Names of the tokenizers of a run."""
    return sorted(path.name for path in (workdir / TOKENIZERS).glob("*") if path.is_dir())


def current_tokenizer(workdir: pathlib.Path) -> str:
    """Name of the tokenizer that is used unless another is named, empty if there is none."""
    path = workdir / TOKENIZERS / CURRENT
    return path.read_text().strip() if path.exists() else ""


def mark_current(workdir: pathlib.Path, name: str) -> None:
    """Have `current_tokenizer` give a name."""
    write_text(workdir / TOKENIZERS / CURRENT, f"{name}\n")


def tokenizer_of(directory: pathlib.Path, name: str = "") -> pathlib.Path:
    """The directory of a tokenizer: that of a run's tokenizer, or the directory itself if it is of no run.

    Args:
        directory: a work directory, or a tokenizer's.
        name: of one of the run's tokenizers, default the current one.

    Raises:
        CheckpointError: the run has no such tokenizer.
    """
    if not (directory / TOKENIZERS).is_dir():
        if (directory / CONFIG).exists():
            raise CheckpointError(f"{directory} holds no tokenizer: fit a codebook first (--mode=fit_codebook)")
        return directory
    name = name or current_tokenizer(directory)
    known = tokenizers(directory)
    if name not in known:
        raise CheckpointError(
            f"{directory} holds no tokenizer {name!r}: expected one of {', '.join(known) or 'none'}, or fit a codebook "
            f"(--mode=fit_codebook)"
        )
    return directory / TOKENIZERS / name
