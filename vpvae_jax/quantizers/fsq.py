"""FSQ: finite scalar quantization, as published and in the symmetric variant with noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import lattice
from vpvae_jax.quantizers import moments
from vpvae_jax.quantizers.activations import ACTIVATIONS
from vpvae_jax.quantizers.base import Quantizer, batch_usage, look_up, straight_through

_SHRINK = 1e-3  # the original bounds latents by this share inside the outermost cells


def fsq(
    levels: Sequence[int],
    *,
    latent_dim: int | None = None,
    symmetric: bool = False,
    noise_rate: float = 0.0,
    mean_weight: float = 0.0,
    variance_weight: float = 0.0,
    skewness_weight: float = 0.0,
    kurtosis_weight: float = 0.0,
) -> Quantizer:
    """Finite scalar quantization: bound each dimension by tanh, round with straight-through.

    Original: `b = tanh(z + shift) * (L - 1)(1 - 1e-3) / 2 - offset`, `round(b) / (L // 2)`, with offset 1/2 and
    `shift = tan(offset / half width)` for even L. Symmetric: `a = (tanh z + 1) / 2`,
    `2 round(a (L - 1)) / (L - 1) - 1`.

    Args:
        levels: L_i of each dimension, at least 2; the codebook has their product of codes.
        latent_dim: d, to be checked against the levels.
        symmetric: the grid includes both ends of [-1, 1].
        noise_rate: probability that a dimension gets uniform noise instead of being rounded: of one step of the grid
            in the original, of `U(-1/2, 1/2) / L` on a in the symmetric variant (the paper's baseline has rate 0.5).
        mean_weight: l1 of L_norm on z, off by default as the other weights are.
        variance_weight: l2 of L_norm; its target is that of FSP with tanh.
        skewness_weight: of the squared third moment in L_norm.
        kurtosis_weight: of the squared excess fourth moment in L_norm.

    Returns:
        A `Quantizer` with `params = {}`, `state = {}`.

    Raises:
        ValueError: a setting that cannot work, with its remedy.

    Source: Mentzer et al. 2023 (arXiv 2309.15505); the symmetric variant with noise as arXiv 2602.17133 compares to.
    """
    num_levels = lattice.check_levels(levels, latent_dim)
    if not 0 <= noise_rate <= 1:
        raise ValueError(f"noise_rate={noise_rate}: expected a probability in [0, 1]")
    dim, float_levels = len(num_levels), jnp.array(num_levels, jnp.float32)
    # A latent x in grid units: level l is the whole number lowest + l, the decoder sees x / scale.
    if symmetric:
        lowest, scale, noise_width = -(float_levels - 1) / 2, (float_levels - 1) / 2, 1 - 1 / float_levels
    else:
        lowest, scale, noise_width = -(float_levels // 2), float_levels // 2, jnp.ones(dim)
    half_width = (float_levels - 1) * (1 - _SHRINK) / 2
    offset = jnp.where(float_levels % 2 == 0, 0.5, 0.0)
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
        noisy = x + noise_width * (jax.random.uniform(noise_key, z.shape) - 0.5)
        is_noisy = jax.random.uniform(select_key, z.shape) < noise_rate
        x_tilde = straight_through(x, jnp.where(is_noisy, noisy, level + lowest))
        loss = moments.latent_norm_loss(
            z,
            target_variance=ACTIVATIONS["tanh"].variance,
            mean_weight=mean_weight,
            variance_weight=variance_weight,
            skewness_weight=skewness_weight,
            kurtosis_weight=kurtosis_weight,
        )
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

    return Quantizer(
        input_dim=dim,
        latent_dim=dim,
        codebook_size=math.prod(num_levels),
        init=lambda key: ({}, {}),
        train=train,
        project=lambda z: bound(z.astype(jnp.float32)) / scale,
        fit=fit,
        encode=encode,
        decode=look_up,
    )
