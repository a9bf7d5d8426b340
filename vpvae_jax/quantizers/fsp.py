"""FSP: the scalar variant of VP. A CDF-like map makes latents uniform, so that cells and noise are known exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import lattice
from vpvae_jax.quantizers.activations import get_activation
from vpvae_jax.quantizers.base import Quantizer, batch_usage, look_up, on_any_mesh, straight_through
from vpvae_jax.quantizers.latent_norm import AUTHORS, LatentNorm, distance_from_uniform

_UNIT_VARIANCE = math.sqrt(12.0)  # 1 / standard deviation of U[0, 1]
ACCEPT = ("dimension", "vector")


class Draws(NamedTuple):
    """The random numbers of one step for n latents, an argument so that reference numbers can be reproduced."""

    noise_u: jax.Array  # (n, d) from U[0, 1)
    select_u: jax.Array  # (n, d) from U[0, 1): a dimension is perturbed where it exceeds the rate, else quantized


def to_unit_variance(u: jax.Array) -> jax.Array:
    """Scale a value in [0, 1] for the decoder: `(u - 1/2) * sqrt(12)`."""
    return (u - 0.5) * _UNIT_VARIANCE


def level_indices(u: jax.Array, levels: jax.Array) -> jax.Array:
    """Compute `l = floor(L * u)`, at most L - 1; `(n, d)` values in [0, 1] to int32."""
    return jnp.clip(jnp.floor(levels * u).astype(jnp.int32), 0, levels.astype(jnp.int32) - 1)


def centroids(level: jax.Array, levels: jax.Array) -> jax.Array:
    """Compute `(l + 1/2) / L`, the Lloyd-Max points of U[0, 1]."""
    return (level.astype(jnp.float32) + 0.5) / levels


def perturb_or_quantize(
    u: jax.Array, draws: Draws, *, levels: jax.Array, quantize_rate: float, accept: str = "dimension"
) -> tuple[jax.Array, jax.Array]:
    """Replace each value by its centroid or move it by up to half a cell.

    A move `u' = u + U(-1/2, 1/2) / L` counts if it stays inside (0, 1).

    Args:
        u: `(n, d)` values in [0, 1].
        draws: see `Draws`.
        levels: `(d,)` float, L_i.
        quantize_rate: share of dimensions that are quantized instead of perturbed.
        accept: "dimension": each is accepted on its own, as in the authors' code; "vector": all perturbed dimensions of
            a latent or none, as in the paper.

    Returns:
        u_tilde: `(n, d)`, with the identity as its gradient.
        inside: `(n, d)` bool, whether the move stays inside.

    Source: arXiv 2602.17133, FSP.
    """
    moved = u + (2.0 * draws.noise_u - 1.0) / (2.0 * levels)
    inside = (moved > 0.0) & (moved < 1.0)
    is_perturbed = draws.select_u > quantize_rate
    if accept == "vector":
        inside = jnp.broadcast_to((inside | ~is_perturbed).all(axis=-1, keepdims=True), inside.shape)
    perturbed = jnp.where(inside, moved, u)
    quantized = centroids(level_indices(u, levels), levels)
    return straight_through(u, jnp.where(is_perturbed, perturbed, quantized)), inside


def fsp(
    levels: Sequence[int],
    *,
    latent_dim: int | None = None,
    activation: str = "tanh",
    quantize_rate: float = 0.5,
    accept: str = "dimension",
    latent_norm: LatentNorm = AUTHORS,
    uniformity_weight: float = 0.0,
) -> Quantizer:
    """Finite scalar perturbation.

    `u = g(z)` in [0, 1] with a CDF-like g. Training quantizes or perturbs each dimension, inference takes the centroid
    of its cell. The decoder takes `(u - 1/2) * sqrt(12)`.

    Args:
        levels: L_i of each dimension, at least 2; the number of codes is their product.
        latent_dim: d, only to check the levels against.
        activation: g: "tanh", "sigmoid", "normal", "laplace" or "cauchy".
        quantize_rate: probability that a dimension is quantized instead of perturbed; paper 0.5.
        accept: "dimension" (authors' code) or "vector" (paper), see `perturb_or_quantize`.
        latent_norm: weights of L_norm on z; its target variance is that of g's distribution.
        uniformity_weight: weight of the discrepancy between u and the uniform distribution,
            `latent_norm.distance_from_uniform`, 0 or more. Our own term, off by default: it raises the usage of the
            codebook and costs some fidelity.

    Returns:
        A `Quantizer` with `params = {}`, `state = {}`.

    Raises:
        ValueError: a setting that cannot work, with its remedy.

    Source: arXiv 2602.17133, FSP.
    """
    num_levels = lattice.check_levels(levels, latent_dim)
    g = get_activation(activation)
    if not 0 <= quantize_rate <= 1:
        raise ValueError(f"quantize_rate={quantize_rate}: expected a probability in [0, 1]")
    if accept not in ACCEPT:
        raise ValueError(f"accept={accept!r}: expected one of {', '.join(ACCEPT)}")
    norm = dataclasses.replace(latent_norm)
    if norm.variance_weight and not math.isfinite(g.variance):
        raise ValueError(
            f"activation={activation!r} has no variance for L_norm to aim at: set latent_norm.variance_weight=0"
        )
    if not uniformity_weight >= 0:
        raise ValueError(f"uniformity_weight={uniformity_weight}: expected 0 or more, 0 turns the term off")
    dim, float_levels = len(num_levels), jnp.array(num_levels, jnp.float32)

    def train(params, state, z, key):
        del params
        noise_key, select_key, uniform_key = jax.random.split(key, 3)
        draws = Draws(
            jax.random.uniform(noise_key, z.shape, jnp.float32), jax.random.uniform(select_key, z.shape, jnp.float32)
        )
        z = z.astype(jnp.float32)
        u = g.cdf(z)
        u_tilde, inside = perturb_or_quantize(u, draws, levels=float_levels, quantize_rate=quantize_rate, accept=accept)
        loss = norm.loss(z, g.variance if norm.variance_weight else 1.0)
        if uniformity_weight:
            loss += uniformity_weight * distance_from_uniform(uniform_key, u)
        indices = lattice.to_indices(level_indices(u, float_levels), num_levels)
        info = {
            "acceptance_rate": inside.mean(dtype=jnp.float32),
            "move_length": jnp.linalg.norm(jax.lax.stop_gradient(u_tilde - u) * _UNIT_VARIANCE, axis=-1).mean(),
            "batch_usage": batch_usage(indices, math.prod(num_levels)),
        }
        return to_unit_variance(u_tilde), state, loss, info

    def fit(params, state, latents, key):
        del params, state, latents, key
        return to_unit_variance(centroids(lattice.all_levels(num_levels), float_levels))

    def encode(codebook, z):
        del codebook
        u = z.astype(jnp.float32) / _UNIT_VARIANCE + 0.5
        return lattice.to_indices(level_indices(u, float_levels), num_levels)

    return on_any_mesh(
        Quantizer(
            input_dim=dim,
            latent_dim=dim,
            codebook_size=math.prod(num_levels),
            fitted_afterwards=False,
            init=lambda key: ({}, {}),
            train=train,
            project=lambda z: to_unit_variance(g.cdf(z.astype(jnp.float32))),
            fit=fit,
            encode=encode,
            decode=look_up,
        )
    )
