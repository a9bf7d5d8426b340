"""Moments of the latents and the regularizer that pulls them to those of a standard distribution."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

MEAN_WEIGHT = 0.1  # l1 of the authors' code
VARIANCE_WEIGHT = 0.07  # l2 of the authors' code
SKEWNESS_WEIGHT = 0.06  # the authors' preset that also uses third and fourth moments
KURTOSIS_WEIGHT = 0.05
_MAX_COMPARED = 1024  # latents in a discrepancy: its cost is their square
_KERNEL_SCALES = (0.05, 0.1, 0.2, 0.4)  # of the unit cube, from a cell of the lattice to the whole
_MIN_VARIANCE = 1e-12  # a dimension without variance has no third and fourth moment: they count as 0 and -3


class Moments(NamedTuple):
    """Per latent dimension, over the batch."""

    mean: jax.Array  # (d,)
    variance: jax.Array  # (d,) unbiased
    skewness: jax.Array  # (d,) third standardised moment
    kurtosis: jax.Array  # (d,) fourth standardised moment minus 3


def latent_moments(z: jax.Array) -> Moments:
    """Moments of `(n, d)` latents over n. Under `jit` with a sharded batch they are those of the global batch."""
    z = z.astype(jnp.float32)
    mean = z.mean(axis=0)
    centered = z - mean
    variance = jnp.sum(centered**2, axis=0) / (z.shape[0] - 1)
    standardised = centered / jnp.sqrt(jnp.maximum(variance, _MIN_VARIANCE))
    return Moments(mean, variance, jnp.mean(standardised**3, axis=0), jnp.mean(standardised**4, axis=0) - 3.0)


def latent_norm_loss(
    z: jax.Array,
    *,
    target_variance: float = 1.0,
    mean_weight: float = MEAN_WEIGHT,
    variance_weight: float = VARIANCE_WEIGHT,
    skewness_weight: float = 0.0,
    kurtosis_weight: float = 0.0,
) -> jax.Array:
    """L_norm: weighted mean over dimensions of squared deviations of the batch moments.

    `l1 * mean_i mean_i^2 + l2 * mean_i (var_i - target)^2 (+ l3 * mean_i skew_i^2 + l4 * mean_i kurt_i^2)`.
    The paper writes squared norms, its authors' code means over dimensions: means here.

    Args:
        z: `(n, d)` latents of the global batch, n >= 2.
        target_variance: 1 for VP.
        mean_weight: l1.
        variance_weight: l2.
        skewness_weight: l3, off by default.
        kurtosis_weight: l4, off by default.

    Returns:
        `()` float32.

    Source: arXiv 2602.17133, latent regularizer.
    """
    moments = latent_moments(z)
    loss = mean_weight * jnp.mean(moments.mean**2)
    loss += variance_weight * jnp.mean((moments.variance - target_variance) ** 2)
    if skewness_weight:
        loss += skewness_weight * jnp.mean(moments.skewness**2)
    if kurtosis_weight:
        loss += kurtosis_weight * jnp.mean(moments.kurtosis**2)
    return loss


def distance_from_uniform(key: jax.Array, u: jax.Array) -> jax.Array:
    """Squared maximum mean discrepancy between latents and the uniform distribution on the unit cube.

    `E k(u, u') + E k(v, v') - 2 E k(u, v)` with v uniform and `k = sum_s 1 / (1 + |u - v|^2 / (s^2 d))`; 0 in the mean
    if u is uniform and its dimensions independent. Unlike moments it sees any dependence between dimensions.

    Args:
        key: random key.
        u: `(n, d)` in [0, 1]; of more than 1024 as many are drawn and compared.

    Returns:
        `()` float32.

    Source: Gretton et al. 2012 for the discrepancy; Tolstikhin et al. 2018 (arXiv 1711.01558) for its use on latents.
    """
    choice_key, uniform_key = jax.random.split(key)
    if u.shape[0] > _MAX_COMPARED:
        u = jax.random.choice(choice_key, u, (_MAX_COMPARED,), replace=False)
    num, dim = u.shape
    v = jax.random.uniform(uniform_key, u.shape)

    def kernel(a, b):
        squared = jnp.sum((a[:, None] - b[None]) ** 2, axis=-1) / dim
        return sum(1 / (1 + squared / scale**2) for scale in _KERNEL_SCALES)

    def mean_of_pairs(a):  # of different members
        return (jnp.sum(kernel(a, a)) - num * len(_KERNEL_SCALES)) / (num * (num - 1))

    return mean_of_pairs(u) + mean_of_pairs(v) - 2 * jnp.mean(kernel(u, v))
