"""The relation between stored pixels and network signals, in one place."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_HALF_RANGE = 127.5


def to_signal(pixels: jax.Array) -> jax.Array:
    """uint8 pixels 0..255 to float32 in [-1, 1]."""
    return pixels.astype(jnp.float32) / _HALF_RANGE - 1.0


def to_pixels(signal: jax.Array) -> jax.Array:
    """Signal in [-1, 1] to uint8 pixels: clipped, rounded half to even."""
    return jnp.round((jnp.clip(signal, -1.0, 1.0) + 1.0) * _HALF_RANGE).astype(jnp.uint8)
