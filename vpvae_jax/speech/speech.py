"""Speech: float32 `(n, samples)` at 16 kHz, tokens `(n, ceil(samples / hop))`."""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vpvae_jax.modality import Examples, Loss, Modality, Scorer, Shown
from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.models.sqcodec import SQCodecDecoder, SQCodecEncoder
from vpvae_jax.runtime.errors import ConfigError, DataError
from vpvae_jax.runtime.processes import this_process
from vpvae_jax.runtime.settings import nearest
from vpvae_jax.speech import losses
from vpvae_jax.speech.metrics import METRICS, UnscorableError, require_packages, stoi
from vpvae_jax.speech.settings import SpeechData, SpeechEval, SpeechLoss, SQCodec
from vpvae_jax.speech.waveform import LOUDEST, SAMPLE_RATE
from vpvae_jax.speech.windows import Windows, decode_windows, encode_windows

if TYPE_CHECKING:
    import grain

    from vpvae_jax.data.sources import FolderSource, TfdsSource

_MEBIBYTE = 2**20


class Speech(Modality):
    """Recordings of any length, which the network sees in overlapping windows."""

    sections: ClassVar[Mapping[str, type]] = {
        "data": SpeechData,
        "model": SQCodec,
        "loss": SpeechLoss,
        "eval": SpeechEval,
    }
    unit = "clip"
    rate_unit = "second"
    token_axes = 1
    metrics = METRICS

    data: SpeechData
    model: SQCodec
    loss_settings: SpeechLoss
    evaluation: SpeechEval

    def check(self, crops: Mapping[str, int]) -> None:
        """Raise ConfigError for settings that do not fit together."""
        self._check_network()
        data, model = self.data, self.model
        for key, samples in (
            ("data.crop", crops["data.crop"]),
            ("codebook.crop", crops["codebook.crop"]),
            ("model.window", model.window),
            ("model.context", model.context),
        ):
            if samples % self.stride:
                raise ConfigError(f"{key}={samples}: expected a multiple of the network's hop {self.stride}")
        shortest = losses.STFT_SIZES[-1] // 2 + 1
        if data.crop < shortest:
            raise ConfigError(f"data.crop={data.crop}: expected at least {shortest} samples, for the longest spectrum")
        if data.sample_rate is not None and data.source == "folder":
            raise ConfigError(
                f"data.sample_rate={data.sample_rate} with data.source=folder: files state theirs, leave it unset"
            )
        if 2 * model.context >= model.window:
            raise ConfigError(
                f"model.context={model.context} on both sides leaves nothing of model.window={model.window}: lower it"
            )
        if self.loss_settings.whisper_weight and not self.loss_settings.whisper_weights:
            raise ConfigError(
                f"loss.whisper_weight={self.loss_settings.whisper_weight} but loss.whisper_weights is empty: name a "
                "safetensors file or openai/whisper-tiny.en, or set loss.whisper_weight to 0 to train without the term"
            )
        known = [metric.key for metric in METRICS]
        if not self.evaluation.metrics:
            raise ConfigError(f"eval.metrics is empty: expected at least one of {', '.join(known)}")
        for name in self.evaluation.metrics:
            if name not in known:
                raise ConfigError(f"eval.metrics={self.evaluation.metrics}: no metric {name!r}{nearest(name, known)}")

    def _check_network(self) -> None:
        model = self.model
        for side, gaps, widths, steps, depths in (
            ("encoder", "strides", model.encoder_widths, model.encoder_strides, model.encoder_depths),
            ("decoder", "rates", model.decoder_widths, model.decoder_rates, model.decoder_depths),
        ):
            for key, values in (("widths", widths), (gaps, steps)):
                if not values or not all(value > 0 for value in values):
                    raise ConfigError(f"model.{side}_{key}={values}: expected positive whole numbers")
            num_depths = len(widths) if side == "encoder" else len(steps)  # the decoder's last stage has its own units
            if len(steps) != len(widths) - 1 or len(depths) != num_depths or not all(depth >= 0 for depth in depths):
                raise ConfigError(
                    f"model.{side}_widths={widths}, {side}_{gaps}={steps}, {side}_depths={depths}: "
                    f"expected {len(widths) - 1} {gaps} and {num_depths} depths of 0 or more"
                )
        if math.prod(model.decoder_rates) != self.stride:
            raise ConfigError(
                f"model.decoder_rates={model.decoder_rates} upsample by {math.prod(model.decoder_rates)}: "
                f"expected {self.stride}, the product of model.encoder_strides"
            )
        if model.feature_dim % 4:
            raise ConfigError(
                f"model.feature_dim={model.feature_dim}: expected a multiple of 4, a head's width is a quarter"
            )

    @property
    def stride(self) -> int:
        """Hop: samples that become one token."""
        return math.prod(self.model.encoder_strides)

    def tokens(self, crop: int) -> int:
        """Tokens of a crop."""
        return crop // self.stride

    def rate(self, num_codes: int) -> float:
        """Bits per second."""
        return math.log2(num_codes) * SAMPLE_RATE / self.stride

    def network(self, input_dim: int, latent_dim: int) -> Autoencoder:
        """Encoder, bottleneck of the quantizer's widths, decoder."""
        model = self.model
        shared: dict[str, Any] = {
            "feature_dim": model.feature_dim,
            "attention_window": model.attention_window,
            "num_heads": model.num_heads,
            "init_std": model.init_std,
            "dtype": jnp.dtype(model.dtype),
        }
        return Autoencoder(
            encoder=SQCodecEncoder(
                widths=model.encoder_widths,
                strides=model.encoder_strides,
                depths=model.encoder_depths,
                attention_depth=model.encoder_attention_depth,
                first_bias_std=model.first_bias_std,
                **shared,
            ),
            decoder=SQCodecDecoder(
                widths=model.decoder_widths,
                rates=model.decoder_rates,
                depths=model.decoder_depths,
                attention_depth=model.decoder_attention_depth,
                **shared,
            ),
            feature_dim=model.feature_dim,
            input_dim=input_dim,
            latent_dim=latent_dim,
            bottleneck_init_scale=model.bottleneck_init_scale,
        )

    def loss(self) -> Loss:
        """Weighted L1, multi-scale STFT and, with a weight, Whisper's features; loads Whisper's weights.

        Raises:
            ConfigError: weights that do not exist or cannot be read.
        """
        from vpvae_jax.perceptual.whisper import load_whisper, log_mel

        weights = self.loss_settings
        encoder, params = load_whisper(weights.whisper_weights) if weights.whisper_weight else (None, {})
        spectral = functools.partial(losses.multi_scale_stft, floor=weights.stft_floor)

        def function(params, reconstruction, signal):
            l1, stft = losses.l1(reconstruction, signal), spectral(reconstruction, signal)
            loss, parts = weights.l1_weight * l1 + weights.stft_weight * stft, {"l1": l1, "stft": stft}
            if encoder is not None:
                ours, theirs = (encoder.apply({"params": params}, log_mel(x)) for x in (reconstruction, signal))
                parts["whisper"] = losses.feature_loss(ours, theirs)
                loss += weights.whisper_weight * parts["whisper"]
            return loss, parts

        return Loss(params, function)

    def source(self, split: str) -> FolderSource | TfdsSource:
        """The recordings of a split."""
        from vpvae_jax.speech.decoding import open_source

        return open_source(self.data, split)

    def batches(
        self, source: FolderSource | TfdsSource, *, batch_size: int, crop: int, seed: int
    ) -> grain.DatasetIterator:
        """Endless batches of random crops; each recording has the gain of training."""
        from vpvae_jax.speech.decoding import train_clips

        return train_clips(
            source,
            batch_size=batch_size,
            crop=crop,
            normalize=self.data.normalize,
            sample_rate=self.data.sample_rate,
            min_samples=self.stride,
            seed=seed,
            num_threads=self.data.num_threads,
            cache_bytes=self.data.cache_mib * _MEBIBYTE,
            process=this_process(),
        )

    def check_source(self, source: FolderSource | TfdsSource, crop: int) -> int:
        """Raise UserError if a metric lacks its package, DataError if none of the first recordings can be read."""
        from vpvae_jax.speech.decoding import check_clips

        del crop  # a shorter recording is repeated
        require_packages(self.evaluation.metrics)
        check_clips(source, normalize=self.data.normalize, sample_rate=self.data.sample_rate, min_samples=self.stride)
        return 0

    def batch_shape(self, batch_size: int, crop: int) -> jax.ShapeDtypeStruct:
        """`(batch_size, crop)` float32."""
        return jax.ShapeDtypeStruct((batch_size, crop), jnp.float32)

    @property
    def eval_size(self) -> str:
        """How many samples of a recording are evaluated."""
        return f"{self.data.eval_crop}samples" if self.data.eval_crop else "whole"

    def examples(self, source: FolderSource | TfdsSource) -> Examples:
        """Whole recordings at their own level, or the first `data.eval_crop` samples of them."""
        from vpvae_jax.speech.decoding import AudioDecoder, eval_clips

        decoder = AudioDecoder(sample_rate=self.data.sample_rate, min_samples=self.stride)
        items = eval_clips(source, decoder, max_samples=self.data.eval_crop, process=this_process())
        return Examples(items, len(source), decoder.unreadable, batch_size=1)

    def scorer(self) -> Scorer:
        """The metrics of `eval.metrics`, in worker processes.

        Raises:
            UserError: a package of a metric is missing.
        """
        from vpvae_jax.speech.scoring import AudioScorer

        return AudioScorer(self.evaluation.metrics)

    def first_metric(self, reconstruction: np.ndarray, original: np.ndarray) -> list[float]:
        """STOI of each recording that has one."""
        scores = []
        for pair in zip(reconstruction, original, strict=True):
            with contextlib.suppress(UnscorableError):
                scores.append(stoi(*pair))
        return scores

    def show(self, directory: pathlib.Path, examples: list[Shown]) -> list[pathlib.Path]:
        """Write wav files and spectrograms of at least one example; returns their paths."""
        from vpvae_jax.speech.spectrograms import show_audio

        return show_audio(directory, examples)

    def to_signal(self, stored: jax.Array) -> jax.Array:
        """Waveforms as float32."""
        return jnp.asarray(stored, jnp.float32)

    def to_stored(self, signal: jax.Array) -> jax.Array:
        """Waveforms clipped to [-1, 1]."""
        return jnp.clip(signal, -1.0, 1.0)

    def check_examples(self, examples: Any) -> None:
        """Raise DataError for a batch that is not floating `(n, samples)` in [-1, 1]; any length will do."""
        if not jnp.issubdtype(examples.dtype, jnp.floating) or examples.ndim != 2 or not examples.size:
            raise DataError(f"waveforms are {examples.dtype} {examples.shape}: expected float32 (n, samples) at 16 kHz")
        largest = np.abs(examples).max()
        if not largest <= LOUDEST:  # nor NaN
            raise DataError(
                f"waveforms reach {largest}: expected samples in [-1, 1], divide integers of 16 bits by 32768"
            )

    @property
    def _windows(self) -> Windows:
        """How the tokenizer reads a recording."""
        window, context = self.model.window // self.stride, self.model.context // self.stride
        return Windows(self.stride, window, context, self.evaluation.batch_size)

    def encode(self, function: Callable, examples: Any) -> np.ndarray:
        """Latents of recordings of any length, see `encode_windows`."""
        return encode_windows(self._windows, function, examples)

    def decode(self, function: Callable, latents: Any) -> np.ndarray:
        """Recordings of latents, see `decode_windows`."""
        return decode_windows(self._windows, function, latents)
