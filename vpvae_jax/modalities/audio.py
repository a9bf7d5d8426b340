"""Audio: float32 `(n, samples)` at 16 kHz, tokens `(n, ceil(samples / hop))`."""

from __future__ import annotations

import functools
import math
from typing import Any

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vpvae_jax import losses
from vpvae_jax.data.audio import AudioDecoder, check_clips, eval_clips, train_clips
from vpvae_jax.data.sources import AUDIO_KEYS, AUDIO_SUFFIXES, FolderSource, TfdsSource, folder_source, tfds_source
from vpvae_jax.distributed import this_process
from vpvae_jax.errors import ConfigError, DataError
from vpvae_jax.metrics.audio import require_packages
from vpvae_jax.modalities.base import Examples, Loss, Modality
from vpvae_jax.modalities.windows import Windows, decode_windows, encode_windows, map_tokens
from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.models.sqcodec import SQCodecDecoder, SQCodecEncoder
from vpvae_jax.models.whisper import load_whisper, log_mel
from vpvae_jax.quantizers import Quantizer
from vpvae_jax.scoring.audio import AudioScorer, show_audio
from vpvae_jax.scoring.base import Figure
from vpvae_jax.waveform import SAMPLE_RATE

_MEBIBYTE = 2**20
_LOUDEST = 4.0  # resampling may exceed 1; what exceeds this is in other units


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raise ConfigError for a value that cannot work."""
    model, hop = config.model, stride(config)
    for side, gaps in (("encoder", "strides"), ("decoder", "rates")):
        widths, depths = model[f"{side}_widths"], model[f"{side}_depths"]
        steps = model[f"{side}_{gaps}"]
        for key, values in (("widths", widths), (gaps, steps)):
            if not values or not all(isinstance(value, int) and value > 0 for value in values):
                raise ConfigError(f"model.{side}_{key}={values}: expected positive whole numbers")
        num_depths = len(widths) if side == "encoder" else len(steps)  # the decoder's last stage has units of its own
        if len(steps) != len(widths) - 1 or len(depths) != num_depths or not all(depth >= 0 for depth in depths):
            raise ConfigError(
                f"model.{side}_widths={widths}, {side}_{gaps}={steps}, {side}_depths={depths}: "
                f"expected {len(widths) - 1} {gaps} and {num_depths} depths of 0 or more"
            )
    if math.prod(model.decoder_rates) != hop:
        raise ConfigError(
            f"model.decoder_rates={model.decoder_rates} upsample by {math.prod(model.decoder_rates)}: "
            f"expected {hop}, the product of model.encoder_strides"
        )
    if model.feature_dim % 4:
        raise ConfigError(
            f"model.feature_dim={model.feature_dim}: expected a multiple of 4, a head's width is a quarter"
        )
    shortest = losses.STFT_SIZES[-1] // 2 + 1
    for key, samples in (
        ("data.crop", config.data.crop),
        ("codebook.crop", config.codebook.crop),
        ("model.window", model.window),
        ("model.context", model.context),
    ):
        if samples % hop:
            raise ConfigError(f"{key}={samples}: expected a multiple of the network's hop {hop}")
    if config.data.crop < shortest:
        raise ConfigError(
            f"data.crop={config.data.crop}: expected at least {shortest} samples, for the longest spectrum"
        )
    rate = config.data.sample_rate
    if rate is not None and (rate <= 0 or config.data.source == "folder"):
        raise ConfigError(
            f"data.sample_rate={rate}: expected a positive number of Hz, of tfds samples whose data set does not state "
            "it; files state theirs"
        )
    if 2 * model.context >= model.window:
        raise ConfigError(
            f"model.context={model.context} on both sides leaves nothing of model.window={model.window}: lower it"
        )
    if config.loss.whisper_weight and not config.loss.whisper_weights:
        raise ConfigError(
            f"loss.whisper_weight={config.loss.whisper_weight} but loss.whisper_weights is empty: name a safetensors "
            f"file or openai/whisper-tiny.en, or set loss.whisper_weight to 0 to train without the term"
        )


def stride(config: ml_collections.ConfigDict) -> int:
    """Hop: samples that become one token."""
    return math.prod(config.model.encoder_strides)


def build_network(config: ml_collections.ConfigDict, quantizer: Quantizer) -> Autoencoder:
    """Encoder, bottleneck as wide as the quantizer asks, decoder."""
    model = config.model
    shared = {
        "feature_dim": model.feature_dim,
        "attention_window": model.attention_window,
        "num_heads": model.num_heads,
        "init_std": model.init_std,
        "dtype": jnp.dtype(model.dtype),
    }
    return Autoencoder(
        encoder=SQCodecEncoder(
            widths=tuple(model.encoder_widths),
            strides=tuple(model.encoder_strides),
            depths=tuple(model.encoder_depths),
            attention_depth=model.encoder_attention_depth,
            first_bias_std=model.first_bias_std,
            **shared,
        ),
        decoder=SQCodecDecoder(
            widths=tuple(model.decoder_widths),
            rates=tuple(model.decoder_rates),
            depths=tuple(model.decoder_depths),
            attention_depth=model.decoder_attention_depth,
            **shared,
        ),
        feature_dim=model.feature_dim,
        input_dim=quantizer.input_dim,
        latent_dim=quantizer.latent_dim,
        bottleneck_init_scale=model.bottleneck_init_scale,
    )


def build_loss(config: ml_collections.ConfigDict) -> Loss:
    """Weighted L1, multi-scale STFT and, with a weight, Whisper's features; loads Whisper's weights.

    Raises:
        ConfigError: weights that are not there or cannot be read.
    """
    weights = config.loss
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


def build_source(config: ml_collections.ConfigDict, split: str) -> FolderSource | TfdsSource:
    """The recordings of a split."""
    data = config.data
    if data.source == "folder":
        return folder_source(data.path, split, AUDIO_SUFFIXES)
    return tfds_source(data.name, split, data.data_dir, AUDIO_KEYS)


def build_batches(
    config: ml_collections.ConfigDict, source: FolderSource | TfdsSource, *, batch_size: int, crop: int, seed: int
) -> grain.DatasetIterator:
    """Endless batches of random crops, each recording at the gain of training."""
    data = config.data
    return train_clips(
        source,
        batch_size=batch_size,
        crop=crop,
        normalize=data.normalize,
        sample_rate=data.sample_rate,
        min_samples=stride(config),
        seed=seed,
        num_threads=data.num_threads,
        cache_bytes=data.cache_mib * _MEBIBYTE,
        process=this_process(),
    )


def check_data(config: ml_collections.ConfigDict, source: FolderSource | TfdsSource, crop: int) -> None:
    """Raise DataError if nothing among the first recordings can be read, UserError if metrics lack a package."""
    require_packages()
    del crop  # a shorter recording is repeated
    check_clips(
        source, normalize=config.data.normalize, sample_rate=config.data.sample_rate, min_samples=stride(config)
    )


def examples(config: ml_collections.ConfigDict, source: FolderSource | TfdsSource) -> Examples:
    """Whole recordings at their own level, or what `data.eval_crop` leaves of them."""
    decoder = AudioDecoder(sample_rate=config.data.sample_rate, min_samples=stride(config))
    items = eval_clips(source, decoder, max_samples=config.data.eval_crop, process=this_process())
    return Examples(items, len(source), decoder.unreadable, batch_size=1)


def check_examples(waveforms: Any, stride: int) -> None:
    """Raise DataError for another type or shape than floating `(n, samples)`, or samples that are no waveform."""
    del stride  # any length: it is filled up with zeros
    if not jnp.issubdtype(waveforms.dtype, jnp.floating) or waveforms.ndim != 2 or not waveforms.size:
        raise DataError(f"waveforms are {waveforms.dtype} {waveforms.shape}: expected float32 (n, samples) at 16 kHz")
    largest = np.abs(waveforms).max()
    if not largest <= _LOUDEST:  # nor NaN
        raise DataError(f"waveforms reach {largest}: expected samples in [-1, 1], divide integers of 16 bits by 32768")


def windows(config: ml_collections.ConfigDict) -> Windows:
    """How the tokenizer goes through a recording."""
    hop = stride(config)
    return Windows(hop, config.model.window // hop, config.model.context // hop, config.eval.batch_size)


AUDIO = Modality(
    name="audio",
    unit="clip",
    required={
        "data.eval_crop": "not negative",
        "model.feature_dim": "positive",
        "model.num_heads": "positive",
        "model.attention_window": "positive",
        "model.encoder_attention_depth": "not negative",
        "model.decoder_attention_depth": "not negative",
        "model.init_std": "not negative",
        "model.first_bias_std": "not negative",
        "model.bottleneck_init_scale": "positive",
        "model.window": "positive",
        "model.context": "not negative",
        "loss.stft_floor": "positive",
    },
    choices={},
    reference="configs/speech.py",
    check_config=check_config,
    stride=stride,
    tokens=lambda config, crop: crop // stride(config),
    rate=lambda config, num_codes: math.log2(num_codes) * SAMPLE_RATE / stride(config),
    rate_unit="second",
    build_network=build_network,
    build_loss=build_loss,
    build_source=build_source,
    build_batches=build_batches,
    check_data=check_data,
    batch_shape=lambda batch_size, crop: jax.ShapeDtypeStruct((batch_size, crop), jnp.float32),
    examples=examples,
    scorer=lambda config: AudioScorer(),
    figures={
        "stoi": Figure("STOI", 3),
        "stoi_continuous": Figure("continuous", 3),
        "pesq_wb": Figure("PESQ", 2),
        "si_sdr_db": Figure("SI-SDR dB", 1),
        "log_mel_distance": Figure("log-mel distance", 3),
        "cvu": Figure("CVU", 3),
    },
    show=show_audio,
    to_signal=functools.partial(jnp.asarray, dtype=jnp.float32),
    to_stored=lambda signal: jnp.clip(signal, -1.0, 1.0),
    check_examples=check_examples,
    token_axes=1,
    encode=lambda config, function, waveforms: encode_windows(windows(config), function, waveforms),
    decode=lambda config, function, latents: decode_windows(windows(config), function, latents),
    map_tokens=lambda config, function, tokens: map_tokens(windows(config), function, tokens),
)
