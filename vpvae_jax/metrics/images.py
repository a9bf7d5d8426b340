"""Image metrics take uint8 pixels: what is scored is what would be stored in a file."""

from __future__ import annotations

import dm_pix
import jax
import jax.numpy as jnp

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
