"""CDF-like maps from the real line to [0, 1]: a latent that follows the distribution becomes uniform."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Activation(NamedTuple):
    """A cumulative distribution function and the variance of its distribution."""

    cdf: Callable[[jax.Array], jax.Array]  # real to [0, 1]
    variance: float  # the target of L_norm: a latent of this distribution has a uniform image


def _laplace_cdf(x):
    half_tail = 0.5 * jnp.exp(-jnp.abs(x))
    return jnp.where(x < 0, half_tail, 1.0 - half_tail)


ACTIVATIONS = {
    # (tanh x + 1) / 2 is the logistic CDF of scale 1/2.
    "tanh": Activation(lambda x: 0.5 * (jnp.tanh(x) + 1.0), variance=math.pi**2 / 12),
    "sigmoid": Activation(jax.nn.sigmoid, variance=math.pi**2 / 3),
    "normal": Activation(jax.scipy.stats.norm.cdf, variance=1.0),
    "laplace": Activation(_laplace_cdf, variance=2.0),
    "cauchy": Activation(lambda x: 0.5 + jnp.arctan(x) / math.pi, variance=math.inf),
}


def get_activation(name: str) -> Activation:
    """Look up an activation by name; ValueError lists the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
