"""Calibrate eta: match the length of moves to the quantization error that k-means makes.

The radius of a move, `eta * D_M(z)`, has the right order of magnitude by construction: its ball holds the mass of one
of K cells. How eta = 1 compares to real cells depends on their shape, on rejected moves and on the distribution. Here
eta follows a measurement: k-means on the memory shows how far quantization moves a latent, and eta is adjusted until
the perturbation moves latents as far.

The rule matches the mean move over all latents, including those that a rejection leaves in place, since that is what
the decoder is trained with. The ratio over accepted moves (`error_to_move_ratio`) leaves the rejected ones out. With a
larger eta more moves are rejected, so the mean move has a ceiling. On N(0, I) the target is below it (eta settles at
about 2.65 for K = 256, d = 3). On latents of photographs, where density varies more, eta reached the upper end of
`ETA_RANGE`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import kmeans
from vpvae_jax.perturbation.metropolis import perturb

MATCH = ("mean", "rms")
ETA_RANGE = (0.25, 4.0)  # beyond it moves are either nearly all rejected or too small to matter
_GAIN = 0.1  # share of the logarithmic error that a step corrects: settles in about 50 steps and averages their noise
_KMEANS_ITERATIONS = 5  # few on purpose: the error of an overfit codebook is smaller than the error on new latents


class Calibration(NamedTuple):
    """State of the calibration; scalars."""

    eta: jax.Array  # float32
    target: jax.Array  # float32, how far k-means moves a member of the memory
    step: jax.Array  # int32


def init(eta: float = 1.0) -> Calibration:
    """Start a calibration at `eta`, before any measurement."""
    return Calibration(jnp.array(eta, jnp.float32), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))


def mean_length(move: jax.Array, match: str) -> jax.Array:
    """Average the lengths of `(n, d)` moves, by root mean square with `match="rms"`; latents that stay count as 0."""
    squared = jnp.sum(move**2, axis=-1)
    return jnp.sqrt(squared.mean()) if match == "rms" else jnp.sqrt(squared).mean()


def quantization_error(
    key: jax.Array,
    latents: jax.Array,
    codebook_size: int,
    *,
    match: str = "mean",
    max_iterations: int = _KMEANS_ITERATIONS,
) -> jax.Array:
    """Measure the error of a codebook that k-means fits to the latents: mean (or rms) of `|q(z) - z|`.

    Args:
        key: random key.
        latents: `(n, d)`, n >= codebook_size.
        codebook_size: K.
        match: "mean" or "rms".
        max_iterations: Lloyd iterations.

    Returns:
        `()` float32, in units of the latents.
    """
    codebook, _ = kmeans.kmeans(key, latents, codebook_size, max_iterations=max_iterations)
    return mean_length(codebook[kmeans.assign(codebook, latents)] - latents, match)


def error_to_move_ratio(
    key: jax.Array, latents: jax.Array, codebook_size: int, *, k_radius: int, k_density: int = 8
) -> jax.Array:
    """Divide the mean k-means error by the mean length of an accepted move at eta = 1: the authors' estimate of eta.

    Both are measured on the latents themselves, which also serve as memory. The estimate ignores that a rejected latent
    does not move, and that a larger eta is rejected more often.

    Args:
        key: random key.
        latents: `(n, d)`, n = codebook_size * k_radius in the authors' settings.
        codebook_size: K.
        k_radius: M.
        k_density: k.

    Returns:
        `()` float32. On N(0, I) 1.13 to 1.14 at K = 256, d = 3 and 1.12 at K = 1024, d = 4 (measured); the authors'
        estimator gives 1.16 and 1.11.
    """
    kmeans_key, perturb_key = jax.random.split(key)
    error = quantization_error(kmeans_key, latents, codebook_size)
    z_tilde, info = perturb(perturb_key, latents, latents, k_radius=k_radius, k_density=k_density)
    total = jnp.sum(jnp.linalg.norm(z_tilde - latents, axis=-1))
    return error / (total / info.accepted.sum())


def follow(
    calibration: Calibration,
    key: jax.Array,
    samples: jax.Array,
    move: jax.Array,
    *,
    codebook_size: int,
    every: int,
    match: str,
) -> Calibration:
    """Take one step of the calibration, after the perturbation of a training step.

    k-means on the memory measures the target every `every` steps. Each step corrects eta by a tenth of the logarithm of
    target over move.

    Args:
        calibration: the state.
        key: random key.
        samples: `(|S|, d)` memory.
        move: `(n, d)` moves of this training step's latents, made with the current eta.
        codebook_size: K.
        every: steps between measurements of the target.
        match: which length is matched, "mean" or "rms".

    Returns:
        The next state.
    """
    target = jax.lax.cond(
        calibration.step % every == 0,
        lambda: quantization_error(key, samples, codebook_size, match=match),
        lambda: calibration.target,
    )
    length = mean_length(jax.lax.stop_gradient(move), match)
    is_known = (length > 0) & (target > 0)
    correction = jnp.where(is_known, target / jnp.where(is_known, length, 1.0), 1.0)
    return Calibration(jnp.clip(calibration.eta * correction**_GAIN, *ETA_RANGE), target, calibration.step + 1)
