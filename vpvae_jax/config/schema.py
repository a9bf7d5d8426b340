"""Every key of a config, once: type, default, bound, unit, source and what it affects.

Keys that belong to one kind of signal are in `images.settings` and `speech.settings`, those of a quantizer in the
signature of its factory. A key that is added later gets a default with which stored runs train as before: a stored
config that lacks the key takes it.
"""

# Types of fields are read at run time: no postponed annotations here.
import dataclasses
from collections.abc import Mapping
from typing import Any

from vpvae_jax.config import keys, quantizer_section
from vpvae_jax.images.images import Images
from vpvae_jax.modality import Data, Eval, Modality
from vpvae_jax.runtime import settings
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.runtime.settings import DECAY, NOT_NEGATIVE, POSITIVE, setting
from vpvae_jax.speech.speech import Speech

MODALITIES: Mapping[str, type[Modality]] = {"vqgan": Images, "sqcodec": Speech}
"""By `model.name`."""
SEEDS = settings.Bound("0 to 2**31 - 1", 0, 2**31)
VERSION = 2  # of what is stored: a config or a tokenizer of another version is refused by name


@dataclasses.dataclass(slots=True)
class Codebook:
    """How the codebook is fitted after training."""

    source: str = setting(
        "data",
        "data: latents of the training set; memory: the latents in the memory.",
        choices=("data", "memory"),
        affects="codebook",
    )
    crop: int = setting(
        256, "Crops of the training set that are encoded.", bound=POSITIVE, unit="pixels or samples", affects="codebook"
    )
    max_latents: int = setting(
        2_097_152, "Latents that the codebook is fitted to, at most.", bound=POSITIVE, affects="codebook"
    )
    every: int = setting(
        0,
        "While training: steps from one quick codebook to the next, for CVU and metrics with quantization; a multiple "
        "of eval.every, 0 for none.",
        bound=NOT_NEGATIVE,
        unit="steps",
        affects="nothing",
    )
    num_codes: int | None = setting(
        None,
        "Codes to fit if not those of the training; only for methods whose codebook is fitted afterwards.",
        bound=POSITIVE,
        affects="codebook",
    )


@dataclasses.dataclass(slots=True)
class Train:
    """Optimization."""

    num_steps: int = setting(100_000, "Updates of the whole run.", bound=POSITIVE, unit="steps", affects="length")
    batch_size: int = setting(16, "Examples of a step, on all devices together.", bound=POSITIVE)
    accumulation_steps: int = setting(
        1,
        "Parts of a batch that are computed one after the other to save memory; to the quantizer each is a batch.",
        bound=POSITIVE,
    )
    shard_params: bool = setting(
        False, "Shard parameters and moments over the devices instead of copying them (FSDP).", affects="nothing"
    )
    learning_rate: float = setting(1e-3, "Peak learning rate of Adam.", bound=POSITIVE)
    final_learning_rate: float = setting(0.0, "Learning rate at the end; not used by constant.", bound=NOT_NEGATIVE)
    schedule: str = setting(
        "constant",
        "constant or cosine after a linear warm-up; one_cycle rises from a tenth, falls back, then to the final rate.",
        choices=("constant", "cosine", "one_cycle"),
    )
    warmup_steps: int = setting(0, "Steps over which the rate rises.", bound=NOT_NEGATIVE, unit="steps")
    adam_b1: float = setting(0.9, "Decay of Adam's first moment.", bound=DECAY)
    adam_b2: float = setting(0.999, "Decay of Adam's second moment.", bound=DECAY)
    clip_norm: float = setting(0.0, "Global norm to which the gradient is clipped; 0 for none.", bound=NOT_NEGATIVE)
    ema_decay: float = setting(
        0.0, "Decay of the running mean of the parameters, which becomes the tokenizer; 0 for off.", bound=DECAY
    )
    init_from: str = setting(
        "",
        "Begin with the parameters of a tokenizer or of a work directory; DIR:encoder or DIR:decoder for these alone.",
    )


@dataclasses.dataclass(slots=True)
class Checkpoint:
    """Which checkpoints are written and kept."""

    every: int = setting(
        5000, "Steps from one checkpoint to the next.", bound=POSITIVE, unit="steps", affects="nothing"
    )
    keep: int = setting(2, "Latest checkpoints that are kept.", bound=POSITIVE, affects="nothing")
    keep_best: int = setting(
        0, "Checkpoints of the lowest training loss that are also kept.", bound=NOT_NEGATIVE, affects="nothing"
    )


@dataclasses.dataclass(slots=True)
class Log:
    """What is logged."""

    every: int = setting(
        100, "Steps that become one line of metrics.jsonl.", bound=POSITIVE, unit="steps", affects="nothing"
    )


@dataclasses.dataclass(slots=True)
class Debug:
    """For looking into a run."""

    nans: bool = setting(
        False, "Stop at the first operation that gives NaN, slowly (jax_debug_nans).", affects="nothing"
    )
    profile_steps: int = setting(
        0,
        "Steps, from the second on, that are profiled for TensorBoard into the work directory's profile/.",
        bound=NOT_NEGATIVE,
        unit="steps",
        affects="nothing",
    )


@dataclasses.dataclass(slots=True)
class Config:
    """All settings of a run."""

    data: Data
    model: Any
    quantizer: Any
    loss: Any
    eval: Eval
    codebook: Codebook = dataclasses.field(default_factory=Codebook)
    train: Train = dataclasses.field(default_factory=Train)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    log: Log = dataclasses.field(default_factory=Log)
    debug: Debug = dataclasses.field(default_factory=Debug)
    seed: int = setting(0, "Of parameters, data order, crops and the fit.", bound=SEEDS)

    def to_dict(self) -> dict[str, Any]:
        """Nested dict for JSON."""
        return {"version": VERSION} | keys.to_dict(self)

    def flatten(self) -> dict[str, Any]:
        """`{"train.num_steps": 100, ...}`; tuples as lists, as JSON reads them back."""
        return keys.flatten(keys.to_dict(self))

    def keys_that_affect(self, *affects: settings.Affects) -> set[str]:
        """Dotted keys by what they affect."""
        return {key for key, holder, name in keys.leaves(self) if keys.about(holder, name).affects in affects}


def new_config(network: str, quantizer: Any) -> Config:
    """The defaults of a network's modality.

    Args:
        network: a key of `MODALITIES`.
        quantizer: see `quantizer_section`.

    Raises:
        ConfigError: no such network.
    """
    if network not in MODALITIES:
        raise ConfigError(f"model.name={network!r}{settings.nearest(str(network), MODALITIES)}")
    return Config(quantizer=quantizer, **{name: section() for name, section in MODALITIES[network].sections.items()})


def from_dict(content: Mapping[str, Any]) -> Config:
    """The config of what `Config.to_dict` gave; keys that it lacks keep their defaults.

    Raises:
        ConfigError: a key that does not exist, a value of another type, or what an earlier version stored.
    """
    version = content.get("version", 1) if isinstance(content, Mapping) else "unknown"
    if version != VERSION:
        raise ConfigError(
            f"it was stored by another version of vpvae_jax (layout {version}, this one reads "
            f"{VERSION}): use the version that wrote it, or train again in a new --workdir"
        )
    flat = keys.flatten({key: value for key, value in content.items() if key != "version"})
    quantizer = {key.removeprefix("quantizer."): flat.pop(key) for key in list(flat) if key.startswith("quantizer.")}
    config = new_config(str(flat.get("model.name")), quantizer_section.make(quantizer.pop("name", ""), quantizer))
    for key, value in flat.items():
        keys.assign(config, key, value)
    return config
