"""CDF-like maps from the real line to (0, 1): a latent that follows the distribution becomes uniform."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Activation(NamedTuple):
    """A cumulative distribution function, its inverse and the variance of the distribution."""

    cdf: Callable[[jax.Array], jax.Array]  # real to [0, 1]
    inverse: Callable[[jax.Array], jax.Array]  # (0, 1) to real
    variance: float  # of a latent whose image is uniform: the target of L_norm


def _laplace_cdf(x):
    half_tail = 0.5 * jnp.exp(-jnp.abs(x))
    return jnp.where(x < 0, half_tail, 1.0 - half_tail)


def _laplace_inverse(p):
    return jnp.where(p < 0.5, jnp.log(2.0 * p), -jnp.log(2.0 * (1.0 - p)))


ACTIVATIONS = {
    # (tanh x + 1) / 2 is the logistic CDF of scale 1/2.
    "tanh": Activation(
        lambda x: 0.5 * (jnp.tanh(x) + 1.0), lambda p: jnp.arctanh(2.0 * p - 1.0), variance=math.pi**2 / 12
    ),
    "sigmoid": Activation(jax.nn.sigmoid, lambda p: jnp.log(p) - jnp.log1p(-p), variance=math.pi**2 / 3),
    "normal": Activation(jax.scipy.stats.norm.cdf, jax.scipy.stats.norm.ppf, variance=1.0),
    "laplace": Activation(_laplace_cdf, _laplace_inverse, variance=2.0),
    "cauchy": Activation(
        lambda x: 0.5 + jnp.arctan(x) / math.pi, lambda p: jnp.tan(math.pi * (p - 0.5)), variance=math.inf
    ),
}


def get_activation(name: str) -> Activation:
    """The activation of a name; ValueError lists the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
