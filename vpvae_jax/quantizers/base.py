"""The protocol of a quantizer, and what several methods share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vpvae_jax.codebooks import kmeans
from vpvae_jax.neighbors.sharding import on_auto_axes, spec_of

Params = Any
State = Any


class Quantizer(NamedTuple):
    """How latents become discrete: pure functions, no hidden state.

    `indices` have shape `(n,)`, int32; arithmetic is float32 whatever the dtype of `z`. A codebook is a `(K, d)`
    float32 array. Everything that a method carries through training is in `state`, a pytree to save in checkpoints.

    The network's down-projection gives `z`, `(n, input_dim)`. The decoder takes `(n, latent_dim)`: `z_tilde` in
    training, codes afterwards. `project` maps the first to the second without quantizing: the identity for most, a
    bounded map for scalar quantizers, the mean of a posterior. `fit` and `encode` take projected latents, so that
    `encode(codebook, decode(codebook, indices)) == indices` for every method.

    Example:
        >>> vp = vpvae_jax.vp(1024, 4)
        >>> params, state = vp.init(key)
        >>> z_tilde, state, loss, info = vp.train(params, state, z, key)
        >>> codebook = vp.fit(params, state, vp.project(z), key)
        >>> indices = vp.encode(codebook, vp.project(z))
        >>> z_q = vp.decode(codebook, indices)
    """

    input_dim: int  # width of z, the output of the down-projection
    latent_dim: int  # d
    codebook_size: int  # K, number of codes
    fitted_afterwards: bool  # True: k-means makes the codebook after training, of any size; False: training or its
    # settings determine the codebook, and `fit` ignores the latents
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
    """Implement `project` of the methods whose codes are in the space of the latents: a cast to float32."""
    return z.astype(jnp.float32)


def fit_by_kmeans(codebook_size: int, max_iterations: int) -> Callable[..., jax.Array]:
    """Implement `fit` of the methods whose codebook comes after training.

    Raises:
        ValueError: no iteration.
    """
    if max_iterations < 1:
        raise ValueError(f"kmeans_iterations={max_iterations}: expected at least 1, the default is 100")

    def fit(params, state, latents, key):
        del params, state
        return kmeans.kmeans(key, latents, codebook_size, max_iterations=max_iterations)[0]

    return fit


def look_up(codebook: jax.Array, indices: jax.Array) -> jax.Array:
    """Implement `decode` of every method: the rows of the codebook."""
    return codebook[indices]


def on_any_mesh(quantizer: Quantizer) -> Quantizer:
    """Let the functions of a quantizer take arrays that are sharded over Explicit axes, see `neighbors.sharding`.

    Results with a row for each latent are sharded as the rows of `z`, the state as it came, all else is replicated.
    """

    @functools.wraps(quantizer.train)
    def train(params, state, z, key):
        out_specs = (spec_of(z, 1), jax.tree.map(spec_of, state), P(), P())
        return on_auto_axes(quantizer.train, params, state, z, key, out_specs=out_specs)

    @functools.wraps(quantizer.project)
    def project(z):
        return on_auto_axes(quantizer.project, z, out_specs=spec_of(z, 1))

    @functools.wraps(quantizer.fit)
    def fit(params, state, latents, key):
        return on_auto_axes(quantizer.fit, params, state, latents, key, out_specs=P())

    @functools.wraps(quantizer.encode)
    def encode(codebook, z):
        return on_auto_axes(quantizer.encode, codebook, z, out_specs=spec_of(z, 1))

    @functools.wraps(quantizer.decode)
    def decode(codebook, indices):
        return on_auto_axes(quantizer.decode, codebook, indices, out_specs=spec_of(indices, 1))

    return quantizer._replace(train=train, project=project, fit=fit, encode=encode, decode=decode)


def straight_through(z: jax.Array, quantized: jax.Array) -> jax.Array:
    """Return `quantized`, with the gradient of `z`."""
    return z + jax.lax.stop_gradient(quantized - z)


def batch_usage(indices: jax.Array, codebook_size: int) -> jax.Array:
    """Compute `exp(H) / K` over the tokens of one batch, `()` float32: it shows collapse, but is not CVU of a set."""
    counts = jnp.zeros((codebook_size,), jnp.float32).at[indices].add(1.0)
    shares = counts / indices.shape[0]
    return jnp.exp(jax.scipy.special.entr(shares).sum()) / codebook_size
