"""The modality of images: uint8 `(n, height, width, 3)`, tokens `(n, height / f, width / f)`."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vpvae_jax.images import pixels
from vpvae_jax.images.metrics import METRICS, SSIM_WINDOW, psnr
from vpvae_jax.images.settings import VQGAN, ImageData, ImageEval, ImageLoss
from vpvae_jax.images.windows import Windows, decode_windows, encode_windows
from vpvae_jax.modality import Examples, Loss, Modality, Shown
from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.models.vqgan import VQGANDecoder, VQGANEncoder, context
from vpvae_jax.perceptual.lpips import MIN_SIDE, load_lpips
from vpvae_jax.runtime.errors import ConfigError, DataError
from vpvae_jax.runtime.processes import this_process

_MEBIBYTE = 2**20
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_OWN = {"photos": ("vpvae_jax.images.photos", "Photos"), "photo_tiles": ("vpvae_jax.images.photo_tiles", "PhotoTiles")}


class Images(Modality):
    """Images, bound to their settings; see `Modality`."""

    sections: ClassVar = {"data": ImageData, "model": VQGAN, "loss": ImageLoss, "eval": ImageEval}
    unit = "image"
    rate_unit = "pixel"
    token_axes = 2
    metrics = METRICS

    @property
    def stride(self) -> int:
        """f: pixels of a side that become one token."""
        return 2 ** (len(self.model.channel_multipliers) - 1)

    def weights_of(self, needs: str) -> str:
        """The file of a metric's weights, see `Modality.weights_of`; by default those of the loss."""
        weights = super().weights_of(needs)
        return self.loss_settings.lpips_weights if weights is None else weights

    @property
    def _min_side(self) -> int:
        """Pixels that a side of a whole image must have for the metrics."""
        smallest = max(SSIM_WINDOW, MIN_SIDE if self.weights_of("lpips_weights") else 0)
        return self.stride * -(-smallest // self.stride)

    def check(self, crops: Mapping[str, int]) -> None:
        data, model, loss = self.data, self.model, self.loss_settings
        multipliers = model.channel_multipliers
        if not multipliers or not all(m > 0 for m in multipliers):
            raise ConfigError(f"model.channel_multipliers={multipliers}: expected positive whole numbers")
        if not all(level in range(len(multipliers)) for level in model.attention_levels):
            raise ConfigError(
                f"model.attention_levels={model.attention_levels}: expected levels in 0..{len(multipliers) - 1}"
            )
        if 0 < data.eval_crop < SSIM_WINDOW:
            raise ConfigError(f"data.eval_crop={data.eval_crop}: expected 0, or at least the {SSIM_WINDOW} of SSIM")
        if loss.lpips_weight and not loss.lpips_weights:
            raise ConfigError(
                f"loss.lpips_weight={loss.lpips_weight} but loss.lpips_weights is empty: name the file that "
                "`--mode=convert --network=lpips` writes, or set loss.lpips_weight to 0 to train without the term"
            )
        for is_used, key in ((loss.lpips_weight, "crop"), (self.weights_of("lpips_weights"), "eval_crop")):
            if is_used and 0 < getattr(data, key) < MIN_SIDE:
                raise ConfigError(f"data.{key}={getattr(data, key)}: expected at least the {MIN_SIDE} pixels of LPIPS")
        for key, crop in crops.items():
            if crop % self.stride:
                raise ConfigError(f"{key}={crop}: expected a multiple of the network's stride {self.stride}")
        if data.resize and data.resize < max(crops.values()):
            raise ConfigError(
                f"data.resize={data.resize} makes images smaller than "
                f"{', '.join(f'{key}={crop}' for key, crop in crops.items())}: "
                f"raise it, lower the crops, or set it to 0 to leave images as they are"
            )
        if data.resize and not data.eval_crop and data.resize < self._min_side:
            raise ConfigError(
                f"data.resize={data.resize} makes images too small for the metrics: expected at least {self._min_side}"
            )
        windows = self._windows
        overlap = 2 * max(windows.encoder_context, windows.decoder_context)
        if windows.side is not None and windows.side <= overlap:
            raise ConfigError(
                f"model.window={model.window}: expected more than {overlap * self.stride} pixels, "
                "which the network needs around what it computes"
            )
        if not data.eval_crop and self.evaluation.batch_size > 1:
            raise ConfigError(
                f"eval.batch_size={self.evaluation.batch_size} needs images of one size: "
                f"set it to 1, or data.eval_crop to the side of a central crop"
            )

    def tokens(self, crop: int) -> int:
        return (crop // self.stride) ** 2

    def rate(self, num_codes: int) -> float:
        return math.log2(num_codes) / self.stride**2

    def network(self, input_dim: int, latent_dim: int) -> Autoencoder:
        model = self.model
        shared = {
            "channels": model.channels,
            "channel_multipliers": tuple(model.channel_multipliers),
            "num_res_blocks": model.num_res_blocks,
            "attention_levels": tuple(model.attention_levels),
            "middle_attention": model.middle_attention,
            "norm": model.norm,
            "dtype": jnp.dtype(model.dtype),
            "remat": model.remat,
        }
        return Autoencoder(
            encoder=VQGANEncoder(z_channels=model.z_channels, **shared),
            decoder=VQGANDecoder(**shared),
            feature_dim=model.z_channels,
            input_dim=input_dim,
            latent_dim=latent_dim,
        )

    def loss(self) -> Loss:
        """Weighted L1 and, with a weight, LPIPS, with its convolutions in `model.dtype`; see `Modality.loss`."""
        weights = self.loss_settings
        network, params = load_lpips(weights.lpips_weights) if weights.lpips_weight else (None, {})
        if network is not None:
            network = network.clone(dtype=jnp.dtype(self.model.dtype))
            distance = jax.checkpoint(network.apply) if self.model.remat else network.apply

        def function(params, reconstruction, signal):
            l1 = jnp.mean(jnp.abs(reconstruction.astype(jnp.float32) - signal))
            loss, parts = weights.l1_weight * l1, {"l1": l1}
            if network is not None:
                parts["lpips"] = jnp.mean(distance({"params": params}, reconstruction, signal))
                loss += weights.lpips_weight * parts["lpips"]
            return loss, parts

        return Loss(params, function)

    def source(self, split: str) -> Any:
        from vpvae_jax.data.prepared import image_source
        from vpvae_jax.data.sources import folder_source

        if self.data.source == "folder":
            return folder_source(self.data.path, split, _SUFFIXES, "image")
        return image_source(self.data.name, split, self.data.data_dir, _OWN)

    def batches(self, source: Any, *, batch_size: int, crop: int, seed: int) -> Any:
        from vpvae_jax.images.decoding import train_batches

        return train_batches(
            source,
            batch_size=batch_size,
            crop=crop,
            resize=self.data.resize,
            random_crop=self.data.random_crop,
            flip=self.data.flip,
            seed=seed,
            num_threads=self.data.num_threads,
            cache_bytes=self.data.cache_mib * _MEBIBYTE,
            process=this_process(),
        )

    def check_source(self, source: Any, crop: int) -> int:
        """Count images smaller than a crop, or too small for the metrics; see `Modality.check_source`."""
        from vpvae_jax.images.decoding import check_sizes

        return check_sizes(source, resize=self.data.resize, min_side=crop or self._min_side)

    def batch_shape(self, batch_size: int, crop: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, crop, crop, 3), jnp.uint8)

    @property
    def eval_size(self) -> str:
        """Side of the crop that is evaluated, and to which side images were resized before."""
        resized = f"-of-{self.data.resize}" if self.data.resize else ""
        return (f"{self.data.eval_crop}px" if self.data.eval_crop else "whole") + resized

    def examples(self, source: Any) -> Examples:
        """Central crops, or whole images with sides cut to multiples of the stride."""
        from vpvae_jax.images.decoding import ImageDecoder, eval_images

        decoder = ImageDecoder(self.data.resize, min_side=self.data.eval_crop or self._min_side)
        items = eval_images(source, decoder, crop=self.data.eval_crop, multiple=self.stride, process=this_process())
        return Examples(items, len(source), decoder.unreadable, self.evaluation.batch_size)

    def scorer(self) -> Any:
        from vpvae_jax.images.scoring import ImageScorer

        return ImageScorer(**{metric.needs: self.weights_of(metric.needs) for metric in METRICS if metric.needs})

    def first_metric(self, reconstruction: np.ndarray, original: np.ndarray) -> list[float]:
        return np.asarray(psnr(jnp.asarray(reconstruction), jnp.asarray(original))).tolist()

    def show(self, directory: pathlib.Path, examples: list[Shown]) -> list[pathlib.Path]:
        from vpvae_jax.images.pictures import show_images

        return show_images(directory, examples)

    def to_signal(self, stored: jax.Array) -> jax.Array:
        return pixels.to_signal(stored)

    def to_stored(self, signal: jax.Array) -> jax.Array:
        return pixels.to_pixels(signal)

    def check_examples(self, examples: Any) -> None:
        """Raise DataError unless examples are uint8 `(n, height, width, 3)`, sides multiples of the stride."""
        if examples.dtype != jnp.uint8 or examples.ndim != 4 or examples.shape[-1] != 3:
            raise DataError(f"images are {examples.dtype} {examples.shape}: expected uint8 (n, height, width, 3)")
        if examples.shape[1] % self.stride or examples.shape[2] % self.stride:
            raise DataError(
                f"images have {examples.shape[1]} x {examples.shape[2]} pixels: "
                f"expected multiples of {self.stride}, crop them"
            )

    @property
    def _windows(self) -> Windows:
        """How the tokenizer reads an image: whole, if every position depends on all others."""
        model = self.model
        pixels, positions = context(len(model.channel_multipliers), model.num_res_blocks)
        is_local = model.norm == "layer" and not model.middle_attention and not model.attention_levels
        side = model.window // self.stride if is_local else None
        return Windows(self.stride, side, -(-pixels // self.stride), positions)

    def encode(self, function: Callable, examples: Any) -> np.ndarray:
        """Latents of images of any size, see `encode_windows`."""
        return encode_windows(self._windows, function, examples)

    def decode(self, function: Callable, latents: Any) -> np.ndarray:
        """Images of latents, see `decode_windows`."""
        return decode_windows(self._windows, function, latents)
