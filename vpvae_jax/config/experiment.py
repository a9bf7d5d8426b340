"""The objects of a run, assembled from its config: each is built once and passed down.

Wrong values end here, before anything compiles.
"""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vpvae_jax.config import keys, quantizer_section
from vpvae_jax.config.schema import MODALITIES, Config
from vpvae_jax.modality import Examples, Loss, Modality, Scorer
from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.quantizers import Quantizer
from vpvae_jax.quantizers.base import fit_by_kmeans
from vpvae_jax.runtime import processes
from vpvae_jax.runtime.errors import ConfigError

_ONE_CYCLE_FACTOR = 10  # from the first rate to the largest


class Experiment:
    """Quantizer, network, losses, optimizer and data of a config.

    Attributes:
        config: the settings; not to be changed afterwards.
        modality: what the network works on, bound to its settings.
        quantizer: the method, of the training's codebook size.

    Raises:
        ConfigError: a value that cannot work.
    """

    def __init__(self, config: Config, *, is_training: bool = True):
        """Assemble.

        Args:
            config: the settings.
            is_training: check what only training needs, such as a batch that divides over the devices at hand. False
                for a tokenizer that is loaded.
        """
        keys.check(config)
        self.config = config
        self.modality: Modality = MODALITIES[config.model.name](config.data, config.model, config.loss, config.eval)
        self.quantizer: Quantizer = quantizer_section.build(config.quantizer)
        self._sources: dict[str, Any] = {}
        self._digests: dict[str, str] = {}
        if is_training:
            self._check()

    @functools.cached_property
    def token_quantizer(self) -> Quantizer:
        """The quantizer of the size that the codebook has, `codebook.num_codes`."""
        num_codes = self.config.codebook.num_codes
        if num_codes is None:
            return self.quantizer
        fit = fit_by_kmeans(num_codes, self.config.quantizer.kmeans_iterations)
        return self.quantizer._replace(codebook_size=num_codes, fit=fit)

    @functools.cached_property
    def network(self) -> Autoencoder:
        """Encoder, bottleneck as wide as the quantizer asks, decoder."""
        return self.modality.network(self.quantizer.input_dim, self.quantizer.latent_dim)

    @functools.cached_property
    def signal_shape(self) -> tuple[int, ...]:
        """Shape of one training example as the network sees it."""
        batch = self.modality.batch_shape(1, self.config.data.crop)
        return jax.eval_shape(self.modality.to_signal, batch).shape[1:]

    def abstract_params(self) -> Any:
        """Shapes and types of the network's parameters."""
        signal = jax.ShapeDtypeStruct((1, *self.signal_shape), jnp.float32)
        return jax.eval_shape(self.network.init, jax.random.key(0), signal)["params"]

    @functools.cached_property
    def loss(self) -> Loss:
        """The reconstruction loss; see `Modality.loss`."""
        return self.modality.loss()

    @functools.cached_property
    def schedule(self) -> Callable[[jax.Array], jax.Array]:
        """Learning rate by step.

        `constant` and `cosine` (to the final rate) follow a linear warm-up. `one_cycle` rises over the warm-up from a
        tenth of the rate, falls back to it in as many steps, and then to the final rate, all linearly.
        """
        train = self.config.train
        rate, warmup, num_steps = train.learning_rate, train.warmup_steps, train.num_steps
        if train.schedule == "one_cycle":
            scales = {
                warmup: _ONE_CYCLE_FACTOR,
                2 * warmup: 1 / _ONE_CYCLE_FACTOR,
                num_steps: train.final_learning_rate * _ONE_CYCLE_FACTOR / rate,
            }
            return optax.piecewise_interpolate_schedule("linear", rate / _ONE_CYCLE_FACTOR, scales)
        first = rate / warmup if warmup else rate
        if train.schedule == "cosine":
            return optax.warmup_cosine_decay_schedule(first, rate, warmup, num_steps, train.final_learning_rate)
        return optax.warmup_constant_schedule(first, rate, warmup)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam behind clipping by the global norm."""
        train = self.config.train
        adam = optax.adam(self.schedule, b1=train.adam_b1, b2=train.adam_b2)
        return optax.chain(optax.clip_by_global_norm(train.clip_norm or math.inf), adam)

    def source(self, split: str) -> Any:
        """The records of a split; all processes of the run must read the same ones.

        Raises:
            UserError: no such data, or other data in another process.
        """
        if split not in self._sources:
            self._sources[split] = self.modality.source(split)
            if jax.process_count() > 1:
                processes.check_same(
                    {"the sha256 of a sample": self.digest(split)},
                    "has other data (give all hosts the same files, or data on a file system that all mount)",
                )
        return self._sources[split]

    def digest(self, split: str) -> str:
        """What tells the records of a split from others, wherever they are; see `data.sources.fingerprint`."""
        if split not in self._digests:
            from vpvae_jax.data.sources import fingerprint

            self._digests[split] = fingerprint(self.source(split))
        return self._digests[split]

    def batches(self, split: str, *, batch_size: int, crop: int, seed: int) -> Any:
        """Endless batches of crops of a split; each process reads its rows."""
        return self.modality.batches(self.source(split), batch_size=batch_size, crop=crop, seed=seed)

    def examples(self, split: str) -> Examples:
        """The examples of an evaluation of a split; of several processes, each has its share."""
        return self.modality.examples(self.source(split))

    def scorer(self) -> Scorer:
        """What scores one evaluation; see `Modality.scorer`."""
        return self.modality.scorer()

    def check_data(self, *, to_train: bool = True) -> str:
        """Check what would stop the run hours later.

        Args:
            to_train: False for the data of evaluations alone.

        Returns:
            What the run reads, in one line.

        Raises:
            DataError: a missing split, or too many examples that are too small.
        """
        config, parts = self.config, []
        if to_train:
            is_encoded = config.codebook.source == "data" and self.quantizer.fitted_afterwards
            train_crop = max(config.data.crop, config.codebook.crop if is_encoded else 0)
            parts = [self._checked(config.data.train_split, train_crop, "train on")]
        parts += [self._checked(split, config.data.eval_crop, f"evaluate as {split}") for split in config.eval.splits]
        return "; ".join(parts)

    def _checked(self, split: str, crop: int, purpose: str) -> str:
        from vpvae_jax.data.sources import described

        source = self.source(split)
        num_skipped = self.modality.check_source(source, crop)
        skipped = f", {num_skipped} of them too small or damaged and skipped" if num_skipped else ""
        return f"{described(source, f'{self.modality.unit}s', self.data_name)} to {purpose}{skipped}"

    @property
    def data_name(self) -> str:
        """What evaluations of the data are called: `photos`, `coco_2017`, or the folder's name."""
        data = self.config.data
        if data.source == "folder":
            return pathlib.Path(data.path).expanduser().absolute().name
        return data.name.strip("/").replace("/", "_")

    def _check(self) -> None:
        """Raise ConfigError for settings that do not fit together."""
        config, train = self.config, self.config.train
        if config.data.source == "tfds" and config.data.path:
            raise ConfigError(
                f"data.path={config.data.path} is not used with data.source=tfds: "
                f"set --config.data.source=folder to read it"
            )
        if config.data.source == "folder" and not config.data.path:
            raise ConfigError("data.source=folder but data.path is empty: name the folder, --config.data.path=FOLDER")
        crops = {
            "data.crop": config.data.crop,
            "data.eval_crop": config.data.eval_crop,
            "codebook.crop": config.codebook.crop,
        }
        self.modality.check(crops)
        self._check_codebook()
        if config.codebook.every and (not config.eval.every or config.codebook.every % config.eval.every):
            raise ConfigError(
                f"codebook.every={config.codebook.every} with eval.every={config.eval.every}: expected a multiple of it"
            )
        if not config.eval.splits:
            raise ConfigError("eval.splits=(): expected names, such as ('validation', 'test')")
        if train.warmup_steps >= train.num_steps:
            raise ConfigError(
                f"train.warmup_steps={train.warmup_steps} of {train.num_steps} steps: expected fewer than all "
                f"(--config.train.warmup_steps=...)"
            )
        if train.schedule == "one_cycle" and not 0 < 2 * train.warmup_steps < train.num_steps:
            raise ConfigError(
                f"train.warmup_steps={train.warmup_steps} of {train.num_steps} steps: a one_cycle rises and falls in "
                f"as many, expected at least 1 and less than half"
            )
        if train.ema_decay and getattr(config.quantizer, "update", "") == "ema":
            raise ConfigError(
                f"train.ema_decay={train.ema_decay} with quantizer.update=ema: the tokenizer would decode mean weights "
                f"with the codebook of the last ones, set train.ema_decay=0 or quantizer.update=gradient"
            )
        shares = jax.device_count() * train.accumulation_steps
        if train.batch_size % shares:
            raise ConfigError(
                f"train.batch_size={train.batch_size} does not divide over {jax.device_count()} devices and "
                f"train.accumulation_steps={train.accumulation_steps}: choose a multiple of {shares}"
            )

    def _check_codebook(self) -> None:
        codebook, name = self.config.codebook, self.config.quantizer.name
        is_fitted_afterwards = self.quantizer.fitted_afterwards
        if codebook.num_codes is not None and not is_fitted_afterwards:
            raise ConfigError(
                f"codebook.num_codes={codebook.num_codes} but {name} has its codebook from training: leave it unset, "
                f"only methods whose codebook is fitted afterwards, such as vp, can choose it"
            )
        codebook_size = self.token_quantizer.codebook_size
        if is_fitted_afterwards and codebook.max_latents < codebook_size:
            raise ConfigError(
                f"codebook.max_latents={codebook.max_latents} latents cannot make a codebook of "
                f"{codebook_size} codes: raise it"
            )
        if codebook.source == "memory":
            _, state = jax.eval_shape(self.quantizer.init, jax.random.key(0))
            if not hasattr(state, "memory"):
                raise ConfigError(f"codebook.source=memory but quantizer.name={name} keeps no memory: set it to data")
            capacity = state.memory.samples.shape[0]
            if capacity < codebook_size:
                raise ConfigError(
                    f"quantizer.capacity={capacity} latents in the memory cannot make a codebook of "
                    f"{codebook_size} codes: raise it, or set codebook.source to data"
                )
