"""The protocol every method follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Codebook = Any
Params = Any
State = Any


class Quantizer(NamedTuple):
    """How latents become discrete: pure functions, no hidden state.

    `z`, `z_tilde` and `z_q` have shape `(n, d)`, `indices` `(n,)` int32; arithmetic is float32 whatever `z` comes in.
    Whatever a method carries through training is in `state`, a pytree that is checkpointed with the rest.
    """

    input_dim: int  # width the down-projection must give
    latent_dim: int  # d
    codebook_size: int  # number of codes that exist
    init: Callable[[jax.Array], tuple[Params, State]]
    """(key) -> params, state"""
    train: Callable[[Params, State, jax.Array, jax.Array], tuple[jax.Array, State, jax.Array, dict[str, jax.Array]]]
    """(params, state, z, key) -> z_tilde, state, loss, info; loss is a scalar, info holds scalars to log"""
    fit: Callable[[Params, State, jax.Array, jax.Array], Codebook]
    """(params, state, latents, key) -> codebook; explicit, never hidden in an evaluation switch"""
    encode: Callable[[Codebook, jax.Array], jax.Array]
    """(codebook, z) -> indices"""
    decode: Callable[[Codebook, jax.Array], jax.Array]
    """(codebook, indices) -> z_q"""
