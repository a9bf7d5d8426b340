"""FSQ: finite scalar quantization, as published and in the symmetric variant with noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import lattice
from vpvae_jax.quantizers.activations import ACTIVATIONS
from vpvae_jax.quantizers.base import Quantizer, batch_usage, look_up, on_any_mesh, straight_through
from vpvae_jax.quantizers.latent_norm import OFF, LatentNorm

_SHRINK = 1e-3  # the original bounds latents inside the outermost levels by this share


def fsq(
    levels: Sequence[int],
    *,
    latent_dim: int | None = None,
    symmetric: bool = False,
    noise_rate: float = 0.0,
    latent_norm: LatentNorm = OFF,
) -> Quantizer:
    """Finite scalar quantization: bound each dimension by tanh, round with straight-through.

    Original: `b = tanh(z + shift) * (L - 1)(1 - 1e-3) / 2 - offset`, `round(b) / (L // 2)`, with offset 1/2 and
    `shift = tan(offset / half width)` for even L. Symmetric: `a = (tanh z + 1) / 2`,
    `2 round(a (L - 1)) / (L - 1) - 1`.

    Args:
        levels: L_i of each dimension, at least 2; the number of codes is their product.
        latent_dim: d, only to check the levels against.
        symmetric: whether the grid includes both ends of [-1, 1].
        noise_rate: probability that a dimension gets uniform noise instead of being rounded. The noise is as wide as
            one step of the grid in the original, and `U(-1/2, 1/2) / L` on a in the symmetric variant (the paper's
            baseline has rate 0.5).
        latent_norm: weights of L_norm on z, off by default; its target variance is that of FSP with tanh.

    Returns:
        A `Quantizer` with `params = {}`, `state = {}`.

    Raises:
        ValueError: a setting that cannot work, with its remedy.

    Source: Mentzer et al. 2023 (arXiv 2309.15505); the symmetric variant with noise as arXiv 2602.17133 compares to.
    """
    num_levels = lattice.check_levels(levels, latent_dim)
    if not 0 <= noise_rate <= 1:
        raise ValueError(f"noise_rate={noise_rate}: expected a probability in [0, 1]")
    norm = dataclasses.replace(latent_norm)
    dim, float_levels = len(num_levels), jnp.array(num_levels, jnp.float32)
    # A latent x in grid units: level l is the whole number lowest + l, the decoder takes x / scale.
    if symmetric:
        lowest, scale, noise_width = -(float_levels - 1) / 2, (float_levels - 1) / 2, 1 - 1 / float_levels
    else:
        lowest, scale, noise_width = -(float_levels // 2), float_levels // 2, jnp.ones(dim, jnp.float32)
    half_width = (float_levels - 1) * (1 - _SHRINK) / 2
    offset = jnp.where(float_levels % 2 == 0, 0.5, 0.0).astype(jnp.float32)
    shift = jnp.tan(offset / half_width)

    def bound(z):
        return jnp.tanh(z) * scale if symmetric else jnp.tanh(z + shift) * half_width - offset

    def level_indices(x):
        return jnp.clip(jnp.round(x - lowest).astype(jnp.int32), 0, float_levels.astype(jnp.int32) - 1)

    def train(params, state, z, key):
        del params
        noise_key, select_key = jax.random.split(key)
        z = z.astype(jnp.float32)
        x = bound(z)
        level = level_indices(x)
        noisy = x + noise_width * (jax.random.uniform(noise_key, z.shape, jnp.float32) - 0.5)
        is_noisy = jax.random.uniform(select_key, z.shape, jnp.float32) < noise_rate
        x_tilde = straight_through(x, jnp.where(is_noisy, noisy, level + lowest))
        loss = norm.loss(z, ACTIVATIONS["tanh"].variance)
        info = {
            "move_length": jnp.linalg.norm(jax.lax.stop_gradient(x_tilde - x) / scale, axis=-1).mean(),
            "batch_usage": batch_usage(lattice.to_indices(level, num_levels), math.prod(num_levels)),
        }
        return x_tilde / scale, state, loss, info

    def fit(params, state, latents, key):
        del params, state, latents, key
        return (lattice.all_levels(num_levels) + lowest) / scale

    def encode(codebook, z):
        del codebook
        return lattice.to_indices(level_indices(z.astype(jnp.float32) * scale), num_levels)

    return on_any_mesh(
        Quantizer(
            input_dim=dim,
            latent_dim=dim,
            codebook_size=math.prod(num_levels),
            fitted_afterwards=False,
            init=lambda key: ({}, {}),
            train=train,
            project=lambda z: bound(z.astype(jnp.float32)) / scale,
            fit=fit,
            encode=encode,
            decode=look_up,
        )
    )
