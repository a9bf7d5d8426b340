"""No quantizer in training, the control: a plain autoencoder, with its latents clustered afterwards."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import kmeans
from vpvae_jax.quantizers.base import Quantizer, fit_by_kmeans, identity, look_up, on_any_mesh
from vpvae_jax.quantizers.latent_norm import OFF, LatentNorm


def none(
    codebook_size: int,
    latent_dim: int,
    *,
    latent_norm: LatentNorm = OFF,
    kmeans_iterations: int = 100,
) -> Quantizer:
    """Latents pass through in training; k-means makes the codebook afterwards.

    Args:
        codebook_size: K, number of codes that `fit` makes.
        latent_dim: d.
        latent_norm: weights of L_norm, off by default.
        kmeans_iterations: upper bound on the Lloyd iterations of `fit`.

    Returns:
        A `Quantizer` with `params = {}` and `state = {}`.

    Raises:
        ValueError: a setting that cannot work, with its remedy.
    """
    kmeans.check_codebook(codebook_size, latent_dim)
    norm = dataclasses.replace(latent_norm)

    def train(params, state, z, key):
        del params, key
        z = z.astype(jnp.float32)
        return z, state, norm.loss(z), {"latent_rms": jax.lax.stop_gradient(jnp.sqrt(jnp.mean(z**2)))}

    return on_any_mesh(
        Quantizer(
            input_dim=latent_dim,
            latent_dim=latent_dim,
            codebook_size=codebook_size,
            fitted_afterwards=True,
            init=lambda key: ({}, {}),
            train=train,
            project=identity,
            fit=fit_by_kmeans(codebook_size, kmeans_iterations),
            encode=kmeans.assign,
            decode=look_up,
        )
    )
