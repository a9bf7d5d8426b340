"""FIFO memory of recent latents: a sample of the latent distribution, from which its local density is estimated."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.neighbors.sharding import on_auto_axes, spec_of


class Memory(NamedTuple):
    """A ring buffer: always full, the oldest entries are overwritten first."""

    samples: jax.Array  # (capacity, d) float32
    cursor: jax.Array  # () int32, the position to overwrite next


def init(key: jax.Array, capacity: int, dim: int) -> Memory:
    """Fill a memory with draws from N(0, I), the distribution that L_norm pulls the latents to.

    Args:
        key: random key.
        capacity: number of latents held, |S| = K * M in the paper's settings.
        dim: latent dimension d.

    Returns:
        A full memory.

    Raises:
        ValueError: capacity or dim below 1.
    """
    if capacity < 1 or dim < 1:
        raise ValueError(f"capacity={capacity}, dim={dim}: a memory needs at least 1 of each, raise them")
    return Memory(jax.random.normal(key, (capacity, dim), jnp.float32), jnp.zeros((), jnp.int32))


@jax.jit
def push(memory: Memory, z: jax.Array) -> Memory:
    """Overwrite the oldest entries with `z`, in order.

    Args:
        memory: the memory.
        z: `(n, d)` latents, n at most the capacity. No gradient is kept.

    Returns:
        The memory with the latents, its cursor advanced by n.

    Raises:
        ValueError: n above the capacity, or another d.
    """
    capacity, dim = memory.samples.shape
    if z.ndim != 2 or z.shape[1] != dim:
        raise ValueError(f"memory holds latents of dimension {dim} but z has shape {z.shape}: pass (n, {dim})")
    if z.shape[0] > capacity:
        raise ValueError(f"memory holds {capacity} latents but {z.shape[0]} were pushed at once: push fewer")

    def overwrite(memory, z):
        positions = (memory.cursor + jnp.arange(z.shape[0], dtype=jnp.int32)) % capacity
        samples = memory.samples.at[positions].set(jax.lax.stop_gradient(z).astype(jnp.float32), unique_indices=True)
        return Memory(samples, (memory.cursor + z.shape[0]) % capacity)

    return on_auto_axes(overwrite, memory, z, out_specs=jax.tree.map(spec_of, memory))
