"""Figures of merit: of images, of waveforms (`metrics.audio`), of the use of a codebook."""

from vpvae_jax.metrics.images import SSIM_WINDOW, psnr, ssim
from vpvae_jax.metrics.usage import cvu

__all__ = ["SSIM_WINDOW", "cvu", "psnr", "ssim"]
