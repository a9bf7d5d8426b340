"""Images: uint8 `(n, height, width, 3)`, tokens `(n, height / f, width / f)`."""

from __future__ import annotations

import math
from typing import Any

import grain
import jax
import jax.numpy as jnp
import ml_collections

from vpvae_jax import losses, pixels
from vpvae_jax.data.images import ImageDecoder, check_sizes, eval_images, train_batches
from vpvae_jax.data.sources import FolderSource, TfdsSource, folder_source, tfds_source
from vpvae_jax.distributed import this_process
from vpvae_jax.errors import ConfigError, DataError
from vpvae_jax.metrics import SSIM_WINDOW
from vpvae_jax.modalities.base import Examples, Loss, Modality
from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.models.lpips import MIN_SIDE, load_lpips
from vpvae_jax.models.vqgan import VQGANDecoder, VQGANEncoder
from vpvae_jax.quantizers import Quantizer
from vpvae_jax.scoring.base import Figure
from vpvae_jax.scoring.images import ImageScorer, show_images

_MEBIBYTE = 2**20


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raise ConfigError for a value that cannot work."""
    multipliers = config.model.channel_multipliers
    if not multipliers or not all(isinstance(m, int) and m > 0 for m in multipliers):
        raise ConfigError(
            f"model.channel_multipliers={config.model.channel_multipliers}: expected positive whole numbers"
        )
    if not all(level in range(len(multipliers)) for level in config.model.attention_levels):
        raise ConfigError(
            f"model.attention_levels={config.model.attention_levels}: expected levels in 0..{len(multipliers) - 1}"
        )
    if 0 < config.data.eval_crop < SSIM_WINDOW:
        raise ConfigError(f"data.eval_crop={config.data.eval_crop}: expected 0, or at least the {SSIM_WINDOW} of SSIM")
    if config.loss.lpips_weight and not config.loss.lpips_weights:
        raise ConfigError(
            f"loss.lpips_weight={config.loss.lpips_weight} but loss.lpips_weights is empty: name the file that "
            "`python -m vpvae_jax.models.lpips convert` writes, or set loss.lpips_weight to 0 to train without the term"
        )
    for is_used, key in ((config.loss.lpips_weight, "crop"), (config.eval.lpips_weights, "eval_crop")):
        if is_used and 0 < config.data[key] < MIN_SIDE:
            raise ConfigError(f"data.{key}={config.data[key]}: expected at least the {MIN_SIDE} pixels of LPIPS")
    crops = {f"{s}.{k}": config[s][k] for s, k in (("data", "crop"), ("data", "eval_crop"), ("codebook", "crop"))}
    for key, crop in crops.items():
        if crop % stride(config):
            raise ConfigError(f"{key}={crop}: expected a multiple of the network's stride {stride(config)}")
    if config.data.resize and config.data.resize < max(crops.values()):
        raise ConfigError(
            f"data.resize={config.data.resize} makes images smaller than "
            f"{', '.join(f'{key}={crop}' for key, crop in crops.items())}: "
            f"raise it, lower the crops, or set it to 0 to leave images as they are"
        )
    if not config.data.eval_crop and config.eval.batch_size > 1:
        raise ConfigError(
            f"eval.batch_size={config.eval.batch_size} needs images of one size: "
            f"set it to 1, or data.eval_crop to the side of a central crop"
        )


def stride(config: ml_collections.ConfigDict) -> int:
    """f: pixels of a side that become one token."""
    return 2 ** (len(config.model.channel_multipliers) - 1)


def build_network(config: ml_collections.ConfigDict, quantizer: Quantizer) -> Autoencoder:
    """Encoder, bottleneck as wide as the quantizer asks, decoder."""
    shared = {
        "channels": config.model.channels,
        "channel_multipliers": tuple(config.model.channel_multipliers),
        "num_res_blocks": config.model.num_res_blocks,
        "attention_levels": tuple(config.model.attention_levels),
        "middle_attention": config.model.middle_attention,
        "norm": config.model.norm,
        "dtype": jnp.dtype(config.model.dtype),
        "remat": config.model.remat,
    }
    return Autoencoder(
        encoder=VQGANEncoder(z_channels=config.model.z_channels, **shared),
        decoder=VQGANDecoder(**shared),
        feature_dim=config.model.z_channels,
        input_dim=quantizer.input_dim,
        latent_dim=quantizer.latent_dim,
    )


def build_loss(config: ml_collections.ConfigDict) -> Loss:
    """Weighted L1 and, with a weight, LPIPS, whose convolutions compute in `model.dtype`; loads LPIPS' weights.

    Raises:
        ConfigError: weights that are not there or cannot be read.
    """
    weights = config.loss
    network, params = load_lpips(weights.lpips_weights) if weights.lpips_weight else (None, {})
    if network is not None:
        network = network.clone(dtype=jnp.dtype(config.model.dtype))
        distance = jax.checkpoint(network.apply) if config.model.remat else network.apply

    def function(params, reconstruction, signal):
        l1 = losses.l1(reconstruction, signal)
        loss, parts = weights.l1_weight * l1, {"l1": l1}
        if network is not None:
            parts["lpips"] = jnp.mean(distance({"params": params}, reconstruction, signal))
            loss += weights.lpips_weight * parts["lpips"]
        return loss, parts

    return Loss(params, function)


def build_source(config: ml_collections.ConfigDict, split: str) -> FolderSource | TfdsSource:
    """The encoded images of a split."""
    data = config.data
    return folder_source(data.path, split) if data.source == "folder" else tfds_source(data.name, split, data.data_dir)


def build_batches(
    config: ml_collections.ConfigDict, source: FolderSource | TfdsSource, *, batch_size: int, crop: int, seed: int
) -> grain.DatasetIterator:
    """Endless batches of crops of a source, read and augmented as the config says."""
    data = config.data
    return train_batches(
        source,
        batch_size=batch_size,
        crop=crop,
        resize=data.resize,
        random_crop=data.random_crop,
        flip=data.flip,
        seed=seed,
        num_threads=data.num_threads,
        cache_bytes=data.cache_mib * _MEBIBYTE,
        process=this_process(),
    )


def check_data(config: ml_collections.ConfigDict, source: FolderSource | TfdsSource, crop: int) -> None:
    """Raise DataError for images smaller than a crop."""
    if not config.data.resize:
        check_sizes(source, crop=crop or stride(config))


def examples(config: ml_collections.ConfigDict, source: FolderSource | TfdsSource) -> Examples:
    """Central crops, or whole images less what their sides exceed a multiple of the stride by."""
    decoder = ImageDecoder(config.data.resize)
    min_side = max(SSIM_WINDOW, MIN_SIDE if config.eval.lpips_weights else 0)
    items = eval_images(
        source,
        decoder,
        crop=config.data.eval_crop,
        multiple=stride(config),
        min_side=min_side,
        process=this_process(),
    )
    return Examples(items, len(source), decoder.unreadable, config.eval.batch_size)


def check_examples(images: Any, stride: int) -> None:
    """Raise DataError for another type or shape than uint8 `(n, height, width, 3)`, sides multiples of the stride."""
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(f"images are {images.dtype} {images.shape}: expected uint8 (n, height, width, 3)")
    if images.shape[1] % stride or images.shape[2] % stride:
        raise DataError(
            f"images have {images.shape[1]} x {images.shape[2]} pixels: expected multiples of {stride}, crop them"
        )


IMAGES = Modality(
    name="image",
    unit="image",
    required={
        "data.resize": "not negative",
        "data.eval_crop": "not negative",
        "model.channels": "positive",
        "model.num_res_blocks": "positive",
        "model.z_channels": "positive",
        "loss.lpips_weight": "not negative",
    },
    choices={"model.norm": ("group", "layer")},
    reference="configs/photos.py",
    check_config=check_config,
    stride=stride,
    tokens=lambda config, crop: (crop // stride(config)) ** 2,
    rate=lambda config, num_codes: math.log2(num_codes) / stride(config) ** 2,
    rate_unit="pixel",
    build_network=build_network,
    build_loss=build_loss,
    build_source=build_source,
    build_batches=build_batches,
    check_data=check_data,
    batch_shape=lambda batch_size, crop: jax.ShapeDtypeStruct((batch_size, crop, crop, 3), jnp.uint8),
    examples=examples,
    scorer=lambda config: ImageScorer(config.eval.lpips_weights, config.eval.inception_weights),
    figures={
        "psnr_db": Figure("PSNR dB", 2),
        "psnr_db_continuous": Figure("continuous dB", 2),
        "ssim": Figure("SSIM", 3),
        "lpips": Figure("LPIPS", 3, needs="eval.lpips_weights"),
        "rfid": Figure("rFID", 2, needs="eval.inception_weights"),
        "cvu": Figure("CVU", 3),
    },
    show=show_images,
    to_signal=pixels.to_signal,
    to_stored=pixels.to_pixels,
    check_examples=check_examples,
    token_axes=2,
    encode=lambda config, function, images: function(images),
    decode=lambda config, function, latents: function(latents),
    map_tokens=lambda config, function, tokens: function(tokens),
)
