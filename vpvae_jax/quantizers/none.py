"""No quantizer in training, the control: a plain autoencoder whose latents are clustered afterwards."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import kmeans
from vpvae_jax.quantizers import moments
from vpvae_jax.quantizers.base import Quantizer, fit_by_kmeans, identity, look_up


def none(
    codebook_size: int,
    latent_dim: int,
    *,
    mean_weight: float = 0.0,
    variance_weight: float = 0.0,
    skewness_weight: float = 0.0,
    kurtosis_weight: float = 0.0,
    kmeans_iterations: int = 100,
) -> Quantizer:
    """Latents pass through in training; k-means makes the codebook afterwards.

    Args:
        codebook_size: K, number of codes that a fit makes.
        latent_dim: d.
        mean_weight: l1 of L_norm, off by default as the other weights are.
        variance_weight: l2 of L_norm.
        skewness_weight: of the squared third moment in L_norm.
        kurtosis_weight: of the squared excess fourth moment in L_norm.
        kmeans_iterations: upper bound on Lloyd iterations of a fit.

    Returns:
        A `Quantizer` with `params = {}` and `state = {}`.

    Raises:
        ValueError: a setting that cannot work, with its remedy.
    """
    kmeans.check_codebook(codebook_size, latent_dim)

    def train(params, state, z, key):
        del params, key
        z = z.astype(jnp.float32)
        loss = moments.latent_norm_loss(
            z,
            mean_weight=mean_weight,
            variance_weight=variance_weight,
            skewness_weight=skewness_weight,
            kurtosis_weight=kurtosis_weight,
        )
        return z, state, loss, {"latent_rms": jax.lax.stop_gradient(jnp.sqrt(jnp.mean(z**2)))}

    return Quantizer(
        input_dim=latent_dim,
        latent_dim=latent_dim,
        codebook_size=codebook_size,
        init=lambda key: ({}, {}),
        train=train,
        project=identity,
        fit=fit_by_kmeans(codebook_size, kmeans_iterations),
        encode=kmeans.assign,
        decode=look_up,
    )
