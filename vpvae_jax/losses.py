"""Reconstruction losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def l1(reconstruction: jax.Array, signal: jax.Array) -> jax.Array:
    """Mean absolute error over all elements, float32; images in [-1, 1], so 2 is the largest possible."""
    return jnp.mean(jnp.abs(reconstruction.astype(jnp.float32) - signal))
