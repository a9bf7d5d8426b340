"""TokenBridge: a Gaussian posterior in training, fixed percentile bins of N(0, 1) in every dimension afterwards."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import lattice
from vpvae_jax.quantizers.base import Quantizer, batch_usage, look_up, on_any_mesh

_LOG_VARIANCE_RANGE = (-30.0, 20.0)  # latent diffusion


def bin_means(num_bins: int) -> jax.Array:
    """Compute the means of N(0, 1) within its `num_bins` equally likely bins, `(num_bins,)` float32 ascending.

    `n * (pdf(a_i) - pdf(a_{i+1}))` with boundaries a_i at the quantiles i / n. The published bins are cut at +-3, so
    that the outer two of four means are +-1.2602 instead of +-1.2711.
    """
    boundaries = jax.scipy.stats.norm.ppf(jnp.arange(num_bins + 1, dtype=jnp.float32) / num_bins)
    densities = jax.scipy.stats.norm.pdf(boundaries)
    return num_bins * (densities[:-1] - densities[1:])


def tokenbridge(
    codebook_size: int, latent_dim: int | None = None, *, bins: int = 4, kl_weight: float = 1e-6
) -> Quantizer:
    """Quantize the posterior mean of a KL-regularised autoencoder after its training, dimension by dimension.

    Training: `z_tilde = mean + exp(logvar / 2) * N(0, I)` with the loss
    `kl_weight * mean_tokens sum_dims KL(posterior, N(0, I))`.
    Afterwards each dimension takes the nearest of the means of N(0, 1) within its equally likely bins.

    Args:
        codebook_size: K, a power of `bins`.
        latent_dim: d; default the one with `bins**d = codebook_size`.
        bins: number of bins of a dimension, at least 2.
        kl_weight: weight, 0 or more, of the divergence in nats, summed over a token's dimensions, mean over tokens.
            Latent diffusion publishes 1e-6 for sums over an image, with a reconstruction loss that is a sum too.

    Returns:
        A `Quantizer` with `input_dim = 2 d` (mean and logarithm of the variance), `params = {}`, `state = {}`.

    Raises:
        ValueError: a setting that cannot work, with its remedy.

    Source: Wang et al. 2025 (arXiv 2503.16430), which assigns by nearest mean; Rombach et al. 2022 for the posterior.
    """
    if not isinstance(bins, int) or bins < 2:
        raise ValueError(f"bins={bins}: expected a whole number of at least 2")
    dim = 1
    while bins**dim < codebook_size:
        dim += 1
    if bins**dim != codebook_size:
        raise ValueError(
            f"codebook_size={codebook_size} is no power of bins={bins}: "
            f"use {bins ** (dim - 1) if dim > 1 else bins} or {bins**dim}"
        )
    if latent_dim is not None and latent_dim != dim:
        raise ValueError(
            f"latent_dim={latent_dim} but {bins} bins in each of {dim} dimensions make {codebook_size} codes"
        )
    if not kl_weight >= 0:
        raise ValueError(f"kl_weight={kl_weight}: expected 0 or more, 0 turns the term off")
    levels = lattice.check_levels((bins,) * dim)
    means = bin_means(bins)

    def project(z):
        return z[..., :dim].astype(jnp.float32)

    def encode(codebook, z):
        del codebook
        boundaries = (means[1:] + means[:-1]) / 2  # nearest mean
        return lattice.to_indices(jnp.searchsorted(boundaries, z.astype(jnp.float32)), levels)

    def train(params, state, z, key):
        del params
        mean = project(z)
        log_variance = jnp.clip(z[..., dim:].astype(jnp.float32), *_LOG_VARIANCE_RANGE)
        noise = jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape, jnp.float32)
        divergence = 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance, axis=-1).mean()
        info = {
            "kl": jax.lax.stop_gradient(divergence),
            "move_length": jnp.linalg.norm(jax.lax.stop_gradient(noise), axis=-1).mean(),
            "batch_usage": batch_usage(encode(None, mean), codebook_size),
        }
        return mean + noise, state, kl_weight * divergence, info

    def fit(params, state, latents, key):
        del params, state, latents, key
        return means[lattice.all_levels(levels)]

    return on_any_mesh(
        Quantizer(
            input_dim=2 * dim,
            latent_dim=dim,
            codebook_size=codebook_size,
            fitted_afterwards=False,
            init=lambda key: ({}, {}),
            train=train,
            project=project,
            fit=fit,
            encode=encode,
            decode=look_up,
        )
    )
