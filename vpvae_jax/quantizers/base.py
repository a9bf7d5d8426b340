"""The protocol every method follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import kmeans

Params = Any
State = Any


class Quantizer(NamedTuple):
    """How latents become discrete: pure functions, no hidden state.

    `indices` have shape `(n,)`, int32; arithmetic is float32 whatever `z` comes in. A codebook is a `(K, d)` float32
    array. Whatever a method carries through training is in `state`, a pytree that is checkpointed with the rest.

    The network's down-projection gives `z`, `(n, input_dim)`. The decoder is fed `(n, latent_dim)`: `z_tilde` in
    training, codes afterwards. `project` takes the first to the second without quantizing: the identity for most, a
    bounded map for scalar quantizers, the mean of a posterior. Latents that are fitted or encoded are projected ones,
    so that `encode(codebook, decode(codebook, indices)) == indices` for every method.
    """

    input_dim: int  # width the down-projection must give
    latent_dim: int  # d
    codebook_size: int  # number of codes that exist
    init: Callable[[jax.Array], tuple[Params, State]]
    """(key) -> params, state"""
    train: Callable[[Params, State, jax.Array, jax.Array], tuple[jax.Array, State, jax.Array, dict[str, jax.Array]]]
    """(params, state, z, key) -> z_tilde, state, loss, info; loss is a scalar, info holds scalars to log"""
    project: Callable[[jax.Array], jax.Array]
    """(z) -> latents"""
    fit: Callable[[Params, State, jax.Array, jax.Array], jax.Array]
    """(params, state, latents, key) -> codebook; explicit, never hidden in an evaluation switch"""
    encode: Callable[[jax.Array, jax.Array], jax.Array]
    """(codebook, z) -> indices; z as `project` gives it, `(n, latent_dim)`"""
    decode: Callable[[jax.Array, jax.Array], jax.Array]
    """(codebook, indices) -> z_q"""


def identity(z: jax.Array) -> jax.Array:
    """`project` of the methods whose codes lie among the latents themselves."""
    return z.astype(jnp.float32)


def fit_by_kmeans(codebook_size: int, max_iterations: int) -> Callable[..., jax.Array]:
    """`fit` of the methods whose codebook comes after training."""

    def fit(params, state, latents, key):
        del params, state
        return kmeans.kmeans(key, latents, codebook_size, max_iterations=max_iterations)[0]

    return fit


def look_up(codebook: jax.Array, indices: jax.Array) -> jax.Array:
    """`decode` of every method: the rows of the codebook."""
    return codebook[indices]


def straight_through(z: jax.Array, quantized: jax.Array) -> jax.Array:
    """`quantized` in value, `z` to the gradient."""
    return z + jax.lax.stop_gradient(quantized - z)


def batch_usage(indices: jax.Array, codebook_size: int) -> jax.Array:
    """`exp(H) / K` over the tokens of one batch, `()` float32: a sign of collapse, no CVU of a whole set."""
    counts = jnp.zeros((codebook_size,), jnp.float32).at[indices].add(1.0)
    shares = counts / indices.shape[0]
    return jnp.exp(jax.scipy.special.entr(shares).sum()) / codebook_size
