"""Levels, indices and codes of the scalar quantizers: a code is a point of a grid, with one level for each dimension.

An index is the mixed-radix number of the levels, first dimension fastest: `sum_i l_i * prod_{j<i} L_j`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

_MAX_CODES = 2**31 - 1  # indices are int32


def check_levels(levels: Sequence[int], latent_dim: int | None = None) -> tuple[int, ...]:
    """Return the levels as a tuple of int, after checking them.

    Args:
        levels: L_i, number of levels of each dimension.
        latent_dim: d, if it was given beside the levels.

    Returns:
        The levels.

    Raises:
        ValueError: no levels, a level below 2 or not whole, too many codes for int32, another d.
    """
    levels = tuple(levels)
    if not levels or not all(isinstance(level, int) and level >= 2 for level in levels):
        raise ValueError(f"levels={levels}: expected whole numbers of at least 2, one for each latent dimension")
    if math.prod(levels) > _MAX_CODES:
        raise ValueError(f"levels={levels} make {math.prod(levels)} codes but indices are int32: use fewer levels")
    if latent_dim is not None and latent_dim != len(levels):
        raise ValueError(
            f"levels={levels} are {len(levels)} dimensions but latent_dim={latent_dim}: "
            f"expected one level for each dimension"
        )
    return levels


def to_indices(level_indices: jax.Array, levels: Sequence[int]) -> jax.Array:
    """Compute the index of the code with these levels.

    Args:
        level_indices: `(..., d)` whole numbers, l_i in 0..L_i - 1.
        levels: L_i.

    Returns:
        `(...)` int32.
    """
    return level_indices.astype(jnp.int32) @ jnp.array(_strides(levels), jnp.int32)


def to_levels(indices: jax.Array, levels: Sequence[int]) -> jax.Array:
    """Invert `to_indices`: `(...)` whole numbers to `(..., d)` int32 levels."""
    strides = jnp.array(_strides(levels), jnp.int32)
    return indices[..., None].astype(jnp.int32) // strides % jnp.array(levels, jnp.int32)


def all_levels(levels: Sequence[int]) -> jax.Array:
    """List the levels of every code in the order of the indices, `(prod L, d)` int32."""
    return to_levels(jnp.arange(math.prod(levels), dtype=jnp.int32), levels)


def _strides(levels: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(levels[:i]) for i in range(len(levels)))
