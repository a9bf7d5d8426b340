"""Metrics of images. They take uint8 pixels: what is scored is what would be stored in a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from vpvae_jax.images.pixels import to_signal
from vpvae_jax.modality import Metric
from vpvae_jax.perceptual.lpips import load_lpips
from vpvae_jax.runtime.shapes import next_size

SSIM_WINDOW = 11  # pixels, side of the smallest image that has an SSIM
MAX_DB = 100.0  # PSNR of an image without any error, so that means stay finite
_PEAK = 255.0
_LOG10_TO_DB = 10.0


def psnr(reconstruction: np.ndarray | jax.Array, original: np.ndarray | jax.Array) -> jax.Array:
    """Peak signal to noise ratio of each image.

    Args:
        reconstruction: `(n, h, w, c)` uint8.
        original: the same shape, uint8.

    Returns:
        `(n,)` float32 in dB, at most `MAX_DB`, which equal images have.
    """
    return _scores(_psnr, reconstruction, original)


@jax.jit
def _psnr(reconstruction, original, size):
    difference = reconstruction.astype(jnp.float32) - original.astype(jnp.float32)
    # The padding of both is equal.
    mean_squared_error = jnp.sum(difference**2, axis=(1, 2, 3)) / (jnp.prod(size) * original.shape[-1])
    return jnp.minimum(_LOG10_TO_DB * jnp.log10(_PEAK**2 / mean_squared_error), MAX_DB)


def ssim(reconstruction: np.ndarray | jax.Array, original: np.ndarray | jax.Array) -> jax.Array:
    """Structural similarity of each image: Gaussian window of sigma 1.5 and 11 pixels, mean over channels.

    Args:
        reconstruction: `(n, h, w, c)` uint8, sides of at least 11 pixels.
        original: the same shape, uint8.

    Returns:
        `(n,)` float32, 1 for equal images.

    Source: Wang et al. 2004; equal to scikit-image with `gaussian_weights=True, use_sample_covariance=False`.
    """
    if min(original.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"images {original.shape} have no SSIM: expected sides of at least {SSIM_WINDOW} pixels")
    return _scores(_ssim, reconstruction, original)


@jax.jit
def _ssim(reconstruction, original, size):
    images = (image.astype(jnp.float32) / _PEAK for image in (reconstruction, original))
    values = dm_pix.ssim(*images, filter_size=SSIM_WINDOW, filter_sigma=1.5, return_map=True)
    num = size - (SSIM_WINDOW - 1)  # windows along each side that see no padding
    rows, columns = (jnp.arange(values.shape[1 + axis]) < num[axis] for axis in (0, 1))
    inside = (rows[:, None] & columns)[None, :, :, None]
    return jnp.sum(jnp.where(inside, values, 0.0), axis=(1, 2, 3)) / (jnp.prod(num) * values.shape[-1])


def _scores(function: Callable, reconstruction: np.ndarray | jax.Array, original: np.ndarray | jax.Array) -> jax.Array:
    """A function of padded images and the `(2,)` size of what is image in them: it is compiled for few sizes."""
    size = original.shape[1:3]
    if isinstance(reconstruction, jax.core.Tracer):
        return function(reconstruction, original, np.array(size, np.int32))
    lacking = [(0, 0), *((0, next_size(side) - side) for side in size), (0, 0)]
    padded = (np.pad(np.asarray(images), lacking) for images in (reconstruction, original))
    return function(*padded, np.array(size, np.int32))


def make_lpips(weights: str | os.PathLike[str]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """LPIPS (VGG, version 0.1) of each image as a function of reconstruction and original, float32 inside.

    Args:
        weights: file of the weights; see `perceptual.lpips.load_lpips`.

    Returns:
        A function of two `(n, h, w, 3)` uint8, sides of at least 16 pixels, that gives `(n,)` float32, 0 for equal
        images.

    Raises:
        ConfigError: no such weights.
    """
    network, params = load_lpips(weights)

    @jax.jit
    @jax.default_matmul_precision("highest")  # accelerators would round the factors of convolutions to fewer bits
    def distance(params, reconstruction, original):
        return network.apply({"params": params}, to_signal(reconstruction), to_signal(original))

    return functools.partial(distance, params)


METRICS: tuple[Metric, ...] = (
    Metric("psnr_db", "PSNR dB", 2, psnr, continuous="continuous dB"),
    Metric("ssim", "SSIM", 3, ssim),
    Metric("lpips", "LPIPS", 3, load=make_lpips, needs="lpips_weights"),
    Metric("rfid", "rFID", 2, needs="inception_weights"),  # over the whole set: `ImageScorer` computes it
)
