"""From a config to the objects it names: data, quantizer, network, optimizer.

Wrong values end here, before anything compiles.
"""

from __future__ import annotations

import inspect
import math
import pathlib
from collections.abc import Callable
from typing import Any

import grain
import jax
import ml_collections
import optax

from vpvae_jax.config_arguments import with_types
from vpvae_jax.data.sources import FolderSource, TfdsSource
from vpvae_jax.distributed import check_same_data
from vpvae_jax.errors import ConfigError
from vpvae_jax.modalities import MODALITIES, Examples, Modality
from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.quantizers import QUANTIZERS, Quantizer
from vpvae_jax.quantizers.base import fit_by_kmeans
from vpvae_jax.scoring.base import Scorer

_REQUIRED = {
    "train.num_steps": "positive",
    "train.batch_size": "positive",
    "train.accumulation_steps": "positive",
    "train.learning_rate": "positive",
    "train.warmup_steps": "not negative",
    "train.clip_norm": "not negative",
    "train.final_learning_rate": "not negative",
    "data.crop": "positive",
    "data.num_threads": "positive",
    "data.cache_mib": "not negative",
    "codebook.crop": "positive",
    "codebook.max_latents": "positive",
    "codebook.max_iterations": "positive",
    "checkpoint.every": "positive",
    "checkpoint.keep": "positive",
    "checkpoint.keep_best": "not negative",
    "debug.profile_steps": "not negative",
    "eval.batch_size": "positive",
    "eval.num_pictures": "not negative",
    "log.every": "positive",
    "seed": "not negative",
}
_ONE_CYCLE_FACTOR = 10  # from the first rate to the largest
_CHOICES = {
    "quantizer.name": tuple(QUANTIZERS),
    "model.name": tuple(MODALITIES),
    "model.dtype": ("float32", "bfloat16"),
    "train.schedule": ("constant", "cosine", "one_cycle"),
    "data.source": ("tfds", "folder"),
    "codebook.source": ("data", "memory"),
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raise ConfigError for a value that cannot work; the quantizer checks its own."""
    try:
        flat = flatten(config)
    except ZeroDivisionError as error:
        raise ConfigError(f"train.batch_size={config.train.batch_size}: expected a positive number") from error
    if flat.get("model.name") not in MODALITIES:
        raise ConfigError(f"model.name={flat.get('model.name')!r}: expected one of {', '.join(MODALITIES)}")
    modality = modality_of(config)
    required, all_choices = bounds(modality), choices_of(modality)
    lacking = [key for key in (*required, *all_choices) if key not in flat]
    if lacking:
        raise ConfigError(f"the config lacks {', '.join(lacking)}: compare it with {modality.reference}")
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: expected a finite number (--config.{key}=...)")
        if key.endswith("_weight") and value < 0:
            raise ConfigError(f"{key}={value}: expected 0 or more (--config.{key}=...)")
    if config.seed >= 2**31:
        raise ConfigError(f"seed={config.seed}: expected less than 2**31")
    for key, kind in required.items():
        if kind == "positive" and not flat[key] > 0:
            raise ConfigError(f"{key}={flat[key]}: expected a positive number (--config.{key}=...)")
        if kind == "not negative" and not flat[key] >= 0:
            raise ConfigError(f"{key}={flat[key]}: expected 0 or more (--config.{key}=...)")
    for key, choices in all_choices.items():
        if flat[key] not in choices:
            raise ConfigError(f"{key}={flat[key]!r}: expected one of {', '.join(choices)}")
    if not 0 <= config.train.ema_decay < 1:
        raise ConfigError(
            f"train.ema_decay={config.train.ema_decay}: expected 0 (off) or a decay below 1, such as 0.999"
        )
    if not all(0 <= beta < 1 for beta in (config.train.adam_b1, config.train.adam_b2)):
        raise ConfigError(
            f"train.adam_b1={config.train.adam_b1}, adam_b2={config.train.adam_b2}: expected decays in [0, 1)"
        )
    if config.data.source == "tfds" and config.data.path:
        raise ConfigError(
            f"data.path={config.data.path} is not used with data.source=tfds: "
            f"set --config.data.source=folder to read it"
        )
    modality.check_config(config)
    quantizer = build_quantizer(config, for_tokens=True)
    codebook_size = quantizer.codebook_size
    if _is_fitted_afterwards(config.quantizer.name) and config.codebook.max_latents < codebook_size:
        raise ConfigError(
            f"codebook.max_latents={config.codebook.max_latents} latents cannot make a codebook of "
            f"{codebook_size} codes: raise it"
        )
    if config.codebook.source == "memory":
        _, state = jax.eval_shape(quantizer.init, jax.random.key(0))
        if not hasattr(state, "memory"):
            raise ConfigError(
                f"codebook.source=memory but quantizer.name={config.quantizer.name} keeps no memory: set it to data"
            )
        capacity = state.memory.samples.shape[0]
        if capacity < codebook_size:
            raise ConfigError(
                f"quantizer.capacity={capacity} latents in the memory cannot make a codebook of "
                f"{codebook_size} codes: raise it, or set codebook.source to data"
            )
    if (
        not isinstance(config.eval.splits, tuple | list)
        or not config.eval.splits
        or not all(isinstance(s, str) for s in config.eval.splits)
    ):
        raise ConfigError(f"eval.splits={config.eval.splits!r}: expected names, such as ('validation', 'test')")
    shares = jax.device_count() * config.train.accumulation_steps
    if config.train.batch_size % shares:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} does not divide over {jax.device_count()} devices and "
            f"train.accumulation_steps={config.train.accumulation_steps}: choose a multiple of {shares}"
        )


def bounds(modality: Modality) -> dict[str, str]:
    """Numbers that every config of the modality has, by key: "positive" or "not negative"."""
    return _REQUIRED | dict(modality.required)


def choices_of(modality: Modality) -> dict[str, tuple[str, ...]]:
    """Words that every config of the modality has, by key: which they may be."""
    return _CHOICES | dict(modality.choices)


def flatten(config: ml_collections.ConfigDict | dict) -> dict[str, Any]:
    """`{"a.b": value}` for a nested config; tuples as lists, as JSON reads them back."""
    leaves: dict[str, Any] = {}
    for key, value in (config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config).items():
        if isinstance(value, dict):
            leaves |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            leaves[key] = list(value) if isinstance(value, tuple) else value
    return leaves


def modality_of(config: ml_collections.ConfigDict) -> Modality:
    """What the config's network works on."""
    return MODALITIES[config.model.name]


def build_quantizer(config: ml_collections.ConfigDict, *, for_tokens: bool = False) -> Quantizer:
    """The quantizer that `config.quantizer` names, made with its other keys.

    Args:
        config: the config.
        for_tokens: of the size that the codebook is to have, `codebook.num_codes`, not of that of the training.
    """
    settings = config.quantizer.to_dict()
    name = settings.pop("name")
    num_codes = config.codebook.get("num_codes")
    if num_codes is not None and not _is_fitted_afterwards(name):
        raise ConfigError(
            f"codebook.num_codes={num_codes} but {name} has its codebook from training: leave it unset, "
            f"only {' and '.join(filter(_is_fitted_afterwards, QUANTIZERS))} can choose it afterwards"
        )
    if num_codes is not None and num_codes < 1:
        raise ConfigError(f"codebook.num_codes={num_codes}: expected at least 1, or nothing for the training's size")
    try:
        if _is_fitted_afterwards(name):
            settings["kmeans_iterations"] = config.codebook.max_iterations
        quantizer = QUANTIZERS[name](**with_types(QUANTIZERS[name], settings))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"quantizer: {error}") from error
    if not for_tokens or num_codes is None:
        return quantizer
    fit = fit_by_kmeans(num_codes, config.codebook.max_iterations)
    return quantizer._replace(codebook_size=num_codes, fit=fit)


def _is_fitted_afterwards(name: str) -> bool:
    """Whether k-means makes the method's codebook after training, of any size."""
    return "kmeans_iterations" in inspect.signature(QUANTIZERS[name]).parameters


def build_network(config: ml_collections.ConfigDict, quantizer: Quantizer) -> Autoencoder:
    """Encoder, bottleneck as wide as the quantizer asks, decoder."""
    return modality_of(config).build_network(config, quantizer)


def build_source(config: ml_collections.ConfigDict, split: str) -> FolderSource | TfdsSource:
    """The records of a split."""
    return modality_of(config).build_source(config, split)


def build_batches(
    config: ml_collections.ConfigDict, source: FolderSource | TfdsSource, *, batch_size: int, crop: int, seed: int
) -> grain.DatasetIterator:
    """Endless batches of crops of a source, read and augmented as the config says; each process has its rows."""
    return modality_of(config).build_batches(config, source, batch_size=batch_size, crop=crop, seed=seed)


def examples(config: ml_collections.ConfigDict, split: str) -> Examples:
    """What an evaluation of a split goes through; of several processes, each its share of the same records."""
    source = build_source(config, split)
    check_same_data(source)
    return modality_of(config).examples(config, source)


def build_scorer(config: ml_collections.ConfigDict) -> Scorer:
    """What scores one evaluation.

    Raises:
        ConfigError: weights of a metric that are not there or cannot be read.
    """
    return modality_of(config).scorer(config)


def check_data(config: ml_collections.ConfigDict) -> None:
    """Raise DataError for what would else be found hours later: a missing split, examples smaller than a crop."""
    train_crop = config.data.crop if config.codebook.source == "memory" else max(config.data.crop, config.codebook.crop)
    splits = {config.data.train_split: train_crop} | dict.fromkeys(config.eval.splits, config.data.eval_crop)
    for split, crop in splits.items():
        modality_of(config).check_data(config, build_source(config, split), crop)


def dataset_name(config: ml_collections.ConfigDict) -> str:
    """What evaluations of the data are called: `photos`, `coco_2017`, or the folder's name."""
    data = config.data
    if data.source == "folder":
        return pathlib.Path(data.path).expanduser().absolute().name
    return data.name.strip("/").replace("/", "_")


def build_schedule(config: ml_collections.ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Learning rate by step.

    `constant` and `cosine` (to the final rate) follow a linear warm-up. `one_cycle` rises over the warm-up from a tenth
    of the rate, falls back to it in as many steps, and then to the final rate, all linearly.
    """
    train = config.train
    if train.warmup_steps >= train.num_steps:
        raise ConfigError(
            f"train.warmup_steps={train.warmup_steps} of {train.num_steps} steps: expected fewer than all"
        )
    if train.schedule == "one_cycle":
        return _one_cycle(train)
    if train.schedule == "cosine":
        rest = optax.cosine_decay_schedule(
            train.learning_rate, train.num_steps - train.warmup_steps, train.final_learning_rate / train.learning_rate
        )
    else:
        rest = optax.constant_schedule(train.learning_rate)
    if not train.warmup_steps:
        return rest
    warmup = optax.linear_schedule(train.learning_rate / train.warmup_steps, train.learning_rate, train.warmup_steps)
    return optax.join_schedules([warmup, rest], [train.warmup_steps])


def _one_cycle(train: ml_collections.ConfigDict) -> Callable[[jax.Array], jax.Array]:
    rise, end = train.warmup_steps, train.num_steps
    if not 0 < 2 * rise < end:
        raise ConfigError(
            f"train.warmup_steps={rise} of {end} steps: a one_cycle rises and falls in as many, "
            f"expected at least 1 and less than half"
        )
    low, high = train.learning_rate / _ONE_CYCLE_FACTOR, train.learning_rate
    phases = (
        optax.linear_schedule(low, high, rise),
        optax.linear_schedule(high, low, rise),
        optax.linear_schedule(low, train.final_learning_rate, end - 2 * rise),
    )
    return optax.join_schedules(phases, [rise, 2 * rise])


def build_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Adam behind clipping by the global norm (0 for none)."""
    adam = optax.adam(build_schedule(config), b1=config.train.adam_b1, b2=config.train.adam_b2)
    return optax.chain(optax.clip_by_global_norm(config.train.clip_norm or math.inf), adam)
