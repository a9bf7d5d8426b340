"""Figures of merit: of images, of waveforms (`metrics.audio`), of the use of a codebook."""

from vpvae_jax.metrics.fid import Moments, frechet_distance, make_features
from vpvae_jax.metrics.images import SSIM_WINDOW, make_lpips, psnr, ssim
from vpvae_jax.metrics.usage import cvu

__all__ = ["SSIM_WINDOW", "Moments", "cvu", "frechet_distance", "make_features", "make_lpips", "psnr", "ssim"]
