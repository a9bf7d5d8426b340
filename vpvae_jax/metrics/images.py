"""Image metrics take uint8 pixels: what is scored is what would be stored in a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp

from vpvae_jax.models.lpips import load_lpips
from vpvae_jax.pixels import to_signal

SSIM_WINDOW = 11  # pixels, side of the smallest image that has an SSIM
_PEAK = 255.0
_LOG10_TO_DB = 10.0


def psnr(reconstruction: jax.Array, original: jax.Array) -> jax.Array:
    """Peak signal to noise ratio in dB of each image; infinite for equal images.

    Args:
        reconstruction: `(n, h, w, c)` uint8.
        original: the same shape, uint8.

    Returns:
        `(n,)` float32.
    """
    difference = reconstruction.astype(jnp.float32) - original.astype(jnp.float32)
    mean_squared_error = jnp.mean(difference**2, axis=(1, 2, 3))
    return _LOG10_TO_DB * jnp.log10(_PEAK**2 / mean_squared_error)


def ssim(reconstruction: jax.Array, original: jax.Array) -> jax.Array:
    """Structural similarity of each image: Gaussian window of sigma 1.5 and 11 pixels, mean over channels.

    Args:
        reconstruction: `(n, h, w, c)` uint8, sides of at least 11 pixels.
        original: the same shape, uint8.

    Returns:
        `(n,)` float32, 1 for equal images.

    Source: Wang et al. 2004; equal to scikit-image with `gaussian_weights=True, use_sample_covariance=False`.
    """
    images = (image.astype(jnp.float32) / _PEAK for image in (reconstruction, original))
    return dm_pix.ssim(*images, filter_size=SSIM_WINDOW, filter_sigma=1.5)


def make_lpips(weights: str | os.PathLike[str]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """LPIPS (VGG, version 0.1) of each image as a function of reconstruction and original, float32 inside.

    Args:
        weights: see `models.lpips.load_lpips`.

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
