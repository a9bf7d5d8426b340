"""The product of a training: a tokenizer that turns images into indices and indices into images."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy

from vpvae_jax import build, pixels
from vpvae_jax.errors import CheckpointError, DataError
from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.quantizers import Quantizer

_WEIGHTS = "weights.safetensors"
_DESCRIPTION = "tokenizer.json"


def encode_images(network: Autoencoder, quantizer: Quantizer, params: Any, images: jax.Array) -> jax.Array:
    """Latents as the decoder sees them without quantization: `(n, h, w, 3)` uint8 to `(n, h / f, w / f, d)`."""
    z = network.apply({"params": params}, pixels.to_signal(images), method="encode")
    return quantizer.project(z.reshape(-1, quantizer.input_dim)).reshape(*z.shape[:-1], quantizer.latent_dim)


class Tokenizer:
    """Network, codebook and the config that they were made with.

    Attributes:
        config: the resolved config of the training.
        codebook_size: number of codes.
        downsampling: f, pixels of a side that become one token.
        step: number of updates the parameters have seen.
    """

    def __init__(self, config: ml_collections.ConfigDict, params: Any, codebook: Any, step: int):
        quantizer = build.build_quantizer(config, for_tokens=True)
        network = build.build_network(config, quantizer)
        self.config, self.step = config, step
        self.codebook_size = quantizer.codebook_size
        self.downsampling = build.downsampling(config)
        self._weights = {"network": params, "codebook": codebook}

        def to_latents(weights, images):
            return encode_images(network, quantizer, weights["network"], images)

        def to_images(weights, z):
            return pixels.to_pixels(network.apply({"params": weights["network"]}, z, method="decode"))

        def to_indices(weights, z):
            return quantizer.encode(weights["codebook"], z.reshape(-1, z.shape[-1])).reshape(z.shape[:-1])

        def to_codes(weights, indices):
            z_q = quantizer.decode(weights["codebook"], indices.reshape(-1))
            return z_q.reshape(*indices.shape, quantizer.latent_dim)

        self._to_latents, self._to_images = jax.jit(to_latents), jax.jit(to_images)
        self._to_indices, self._to_codes = jax.jit(to_indices), jax.jit(to_codes)

    def latents(self, images: np.ndarray | jax.Array) -> jax.Array:
        """Latents as the decoder sees them without quantization: `(n, h, w, 3)` uint8 to `(n, h / f, w / f, d)`."""
        self._check_images(images)
        return self._to_latents(self._weights, images)

    def encode(self, images: np.ndarray | jax.Array) -> jax.Array:
        """Tokens of images.

        Args:
            images: `(n, h, w, 3)` uint8, sides multiples of `downsampling`.

        Returns:
            `(n, h / f, w / f)` int32 indices in 0..codebook_size - 1.

        Raises:
            DataError: another type or shape.
        """
        return self.encode_latents(self.latents(images))

    def encode_latents(self, z: jax.Array) -> jax.Array:
        """Tokens of latents, `(n, h / f, w / f, d)` to `(n, h / f, w / f)` int32."""
        return self._to_indices(self._weights, z)

    def decode(self, indices: np.ndarray | jax.Array) -> jax.Array:
        """Images of tokens.

        Args:
            indices: `(n, h / f, w / f)` whole numbers in 0..codebook_size - 1.

        Returns:
            `(n, h, w, 3)` uint8.

        Raises:
            DataError: indices of codes that do not exist, or not a batch of grids of whole numbers.
        """
        if indices.ndim != 3 or not jnp.issubdtype(indices.dtype, jnp.integer):
            raise DataError(f"indices are {indices.dtype} {indices.shape}: expected whole numbers (n, height, width)")
        lowest, highest = int(indices.min()), int(indices.max())
        if lowest < 0 or highest >= self.codebook_size:
            raise DataError(f"indices run from {lowest} to {highest} but codes are 0..{self.codebook_size - 1}")
        return self.decode_latents(self._to_codes(self._weights, jnp.asarray(indices, jnp.int32)))

    def decode_latents(self, z: jax.Array) -> jax.Array:
        """Images of latents that were not quantized, `(n, h / f, w / f, d)` to `(n, h, w, 3)` uint8."""
        return self._to_images(self._weights, z)

    def save(self, directory: pathlib.Path | str) -> None:
        """Write `weights.safetensors` and `tokenizer.json`; an older directory is replaced once both are written."""
        directory = pathlib.Path(directory)
        temporary = directory.with_name(f".{directory.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        flat = flax.traverse_util.flatten_dict(self._weights, sep="/")
        arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
        try:
            safetensors.numpy.save_file(arrays, temporary / _WEIGHTS)
        except safetensors.SafetensorError as error:
            raise OSError(f"{temporary / _WEIGHTS} cannot be written ({error})") from error
        description = {"step": self.step, "codebook_size": self.codebook_size, "config": self.config.to_dict()}
        (temporary / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        previous = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(previous, ignore_errors=True)
        if directory.exists():
            os.replace(directory, previous)
        os.replace(temporary, directory)
        shutil.rmtree(previous, ignore_errors=True)

    @classmethod
    def load(cls, directory: pathlib.Path | str) -> Tokenizer:
        """Read what `save` wrote; nothing in the files is executed.

        Raises:
            CheckpointError: no tokenizer there, or a damaged one.
        """
        directory = pathlib.Path(directory)
        if not (directory / _DESCRIPTION).exists():
            raise CheckpointError(f"{directory} holds no tokenizer: fit a codebook first (--mode=fit_codebook)")
        try:
            description = json.loads((directory / _DESCRIPTION).read_text())
            flat = safetensors.numpy.load_file(directory / _WEIGHTS)
            weights = flax.traverse_util.unflatten_dict(flat, sep="/")
            config = ml_collections.ConfigDict(description["config"])
            return cls(config, weights["network"], weights["codebook"], description["step"])
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise CheckpointError(
                f"the tokenizer in {directory} is damaged ({error}): fit it again (--mode=fit_codebook)"
            ) from error

    def _check_images(self, images: np.ndarray | jax.Array) -> None:
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise DataError(f"images are {images.dtype} {images.shape}: expected uint8 (n, height, width, 3)")
        if images.shape[1] % self.downsampling or images.shape[2] % self.downsampling:
            raise DataError(
                f"images have {images.shape[1]} x {images.shape[2]} pixels: "
                f"expected multiples of {self.downsampling}, crop them"
            )
