"""Reconstruction losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def l1(reconstruction: jax.Array, signal: jax.Array) -> jax.Array:
    """Mean absolute error over all elements, float32; images in [-1, 1], so 2 is the largest possible."""
    return jnp.mean(jnp.abs(reconstruction.astype(jnp.float32) - signal))


def feature_loss(features: jax.Array, target: jax.Array, *, limit: float = 5.0) -> jax.Array:
    """Squared error of a frozen network's features; from `limit` on it is scaled down to it, gradient and all.

    `v = mean over frames of sum over features (features - target)^2`, then `limit * v / stop_gradient(v)` where
    `v >= limit`: the gradient keeps its direction, so bad reconstructions pull no harder than middling ones.

    Args:
        features: `(n, frames, width)` of the reconstruction, as of `models.whisper.WhisperEncoder`.
        target: the same of the signal.
        limit: the largest value, positive.

    Returns:
        `()` float32.

    Source: the perceptual loss of arXiv 2602.17133's codec.
    """
    error = features.astype(jnp.float32) - target.astype(jnp.float32)
    value = jnp.mean(jnp.sum(jnp.square(error), axis=-1))
    return value * (limit / jnp.maximum(jax.lax.stop_gradient(value), limit))
