"""Perturb latents as a quantizer would, by one Metropolis-Hastings step that stays inside their distribution.

The target density at z is estimated from the distance to its k-th nearest neighbour in a memory of recent latents,
`pi(z) ~ 1 / D_k(z)^d`; a move is as long as the cell of a codebook of size K is wide, `R(z) = eta * D_M(z)` with
`M = |S| / K`. The functions for one latent (`propose`, `log_acceptance_ratio`) are vmapped by `metropolis_step`.
"""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.neighbors import check_approximate, neighbor_distances_along

_MAX_RELIABLE_DIM = 16  # beyond it neighbour distances concentrate and the density estimate says little
ACCEPT = ("metropolis", "density", "always")
_MIN_ACCEPT_U = 1e-6  # the authors' floor for the uniform draw, so that its logarithm stays finite


class Draws(NamedTuple):
    """The randomness of one step for n latents, kept apart so that reference numbers can be reproduced."""

    direction: jax.Array  # (n, d) from N(0, I), normalised by `propose`
    rho: jax.Array  # (n,) from U[0, 1), the radial draw
    accept_u: jax.Array  # (n,) from U[0, 1), the acceptance draw


class StepInfo(NamedTuple):
    """What a step did, per latent; all float32 but `accepted`."""

    acceptance_rate: jax.Array  # () share of accepted moves
    accepted: jax.Array  # (n,) bool
    radius: jax.Array  # (n,) R(z) = eta * D_M(z)
    proposal: jax.Array  # (n, d) z', whether or not accepted
    proposal_radius: jax.Array  # (n,) R(z')
    density_distance: jax.Array  # (n,) D_k(z)
    proposal_density_distance: jax.Array  # (n,) D_k(z')
    log_acceptance_ratio: jax.Array  # (n,) not capped at 0; NaN where a distance is 0


def propose(z: jax.Array, radius: jax.Array, direction: jax.Array, rho: jax.Array) -> jax.Array:
    """A point uniform in the ball around z: `z' = z + radius * rho^(1/d) * direction / |direction|`.

    Args:
        z: `(d,)` latent.
        radius: `()` radius of the ball, in units of the latent space.
        direction: `(d,)` draw from N(0, I).
        rho: `()` draw from U[0, 1).

    Source: arXiv 2602.17133, section 3 (proposal).
    """
    length = radius * rho ** (1.0 / z.shape[-1])
    return z + length * direction / jnp.linalg.norm(direction)


def log_acceptance_ratio(
    density_distance: jax.Array,
    radius: jax.Array,
    proposal_density_distance: jax.Array,
    proposal_radius: jax.Array,
    dim: int,
) -> jax.Array:
    """Logarithm of target ratio times proposal ratio, not capped at 0.

    `d * (log D_k(z) + log R(z) - log D_k(z') - log R(z'))`: the target is `1 / D_k^d`, the proposal density
    `1 / R^d`. The factor eta in both radii cancels.

    Args:
        density_distance: `()` D_k(z).
        radius: `()` R(z), or D_M(z).
        proposal_density_distance: `()` D_k(z').
        proposal_radius: `()` R(z'), or D_M(z').
        dim: latent dimension d.

    Source: arXiv 2602.17133, section 3 (acceptance).
    """
    forward = jnp.log(density_distance) + jnp.log(radius)
    reverse = jnp.log(proposal_density_distance) + jnp.log(proposal_radius)
    return dim * (forward - reverse)


def metropolis_step(
    samples: jax.Array,
    z: jax.Array,
    draws: Draws,
    *,
    k_radius: int,
    k_density: int,
    eta: float | jax.Array,
    accept: str = "metropolis",
    approximate: float = 0.0,
) -> tuple[jax.Array, StepInfo]:
    """The step of `perturb` with its randomness as an argument.

    A move is accepted if `log u < log_acceptance_ratio` and z lies in the ball around z' that a reverse move
    would start from, `|z' - z| < R(z')`. Where distances are 0 (repeated latents) the ratio is NaN: the latent stays.

    Args:
        samples: `(num_samples, d)` memory.
        z: `(n, d)` latents.
        draws: see `Draws`.
        k_radius: M, rank of the neighbour that sets the radius.
        k_density: k, rank of the neighbour that sets the density.
        eta: scale of the radius, dimensionless.
        accept: see `perturb`.
        approximate: see `perturb`.

    Returns:
        z_tilde: `(n, d)` float32 with `d z_tilde / d z = I`.
        info: see `StepInfo`.
    """
    z = z.astype(jnp.float32)
    start = jax.lax.stop_gradient(z)
    # A proposal in units of D_M, so that one search finds its scale and its own neighbours.
    steps = jax.vmap(functools.partial(propose, jnp.zeros(z.shape[1:]), jnp.asarray(eta)))(draws.direction, draws.rho)
    distances, proposal, proposal_distances = neighbor_distances_along(
        samples, start, steps, (k_density, k_radius), approximate=approximate
    )
    (d_k, d_m), (d_k_new, d_m_new) = distances.T, proposal_distances.T

    log_ratio = log_acceptance_ratio(d_k, d_m, d_k_new, d_m_new, z.shape[-1])
    log_u = jnp.log(jnp.maximum(draws.accept_u, _MIN_ACCEPT_U))
    if accept == "always":
        accepted = jnp.ones_like(log_u, bool)
    elif accept == "density":
        accepted = log_u < z.shape[-1] * (jnp.log(d_k) - jnp.log(d_k_new))
    else:
        is_reversible = jnp.linalg.norm(proposal - start, axis=-1) < eta * d_m_new
        accepted = (log_u < log_ratio) & is_reversible

    z_tilde = z + jnp.where(accepted[:, None], proposal - start, 0.0)
    return z_tilde, StepInfo(
        acceptance_rate=accepted.mean(),
        accepted=accepted,
        radius=eta * d_m,
        proposal=proposal,
        proposal_radius=eta * d_m_new,
        density_distance=d_k,
        proposal_density_distance=d_k_new,
        log_acceptance_ratio=log_ratio,
    )


def perturb(
    key: jax.Array,
    samples: jax.Array,
    z: jax.Array,
    *,
    k_radius: int,
    k_density: int = 8,
    eta: float | jax.Array = 1.0,
    accept: str = "metropolis",
    approximate: float = 0.0,
) -> tuple[jax.Array, StepInfo]:
    """Move each latent by one Metropolis-Hastings step within the distribution of `samples`.

    The step leaves invariant the density that the k nearest neighbours estimate.

    The move is a constant to the gradient: `d z_tilde / d z = I`.

    Args:
        key: random key.
        samples: `(num_samples, d)` recent latents, the `samples` of a `Memory`.
        z: `(n, d)` latents; computed in float32.
        k_radius: M = ceil(num_samples / K), the rank whose distance is the radius of the move.
        k_density: k, the rank whose distance gives the density.
        eta: scale of the radius, dimensionless, positive.
        accept: "metropolis": the step described; the others are for ablations and leave no density invariant.
            "density": by the ratio of the densities alone, without the correction for the size of the balls and
            without the check that a reverse move exists; "always": every move.
        approximate: relative error that the distances may have, for speed; 0 is exact, and the only value with which a
            resumed run repeats itself bit for bit (see `neighbor_distances`).

    Returns:
        z_tilde: `(n, d)` float32.
        info: `StepInfo`; `info.acceptance_rate` is about 0.6 where memory and latents share a distribution.

    Raises:
        ValueError: eta <= 0, an unknown rule, a rank above the number of samples, or shapes that do not match.

    Avoid when: d is above 16 (warned), where distances concentrate; or the latents are far from the memory.

    Source: arXiv 2602.17133, section 3.
    """
    check_perturbation(
        num_samples=samples.shape[0], dim=z.shape[-1], k_radius=k_radius, k_density=k_density, eta=eta, accept=accept
    )
    check_approximate(approximate)
    if z.ndim != 2:
        raise ValueError(f"z has shape {z.shape}, expected (n, d): reshape it with z.reshape(-1, {z.shape[-1]})")
    return _perturb(
        key, samples, z, eta, k_radius=k_radius, k_density=k_density, accept=accept, approximate=approximate
    )


@functools.partial(jax.jit, static_argnames=("k_radius", "k_density", "accept", "approximate"))
def _perturb(key, samples, z, eta, **settings):
    direction_key, rho_key, accept_key = jax.random.split(key, 3)
    draws = Draws(
        direction=jax.random.normal(direction_key, z.shape, jnp.float32),
        rho=jax.random.uniform(rho_key, z.shape[:1], jnp.float32),
        accept_u=jax.random.uniform(accept_key, z.shape[:1], jnp.float32),
    )
    return metropolis_step(samples, z, draws, eta=eta, **settings)


def check_perturbation(
    *,
    num_samples: int,
    dim: int,
    k_radius: int,
    k_density: int,
    eta: float | jax.Array,
    accept: str = "metropolis",
) -> None:
    """Raise ValueError for settings that cannot work, warn of a latent dimension that is too high."""
    if accept not in ACCEPT:
        raise ValueError(f"accept={accept!r}: expected one of {', '.join(ACCEPT)}")
    for name, rank in (("k_radius", k_radius), ("k_density", k_density)):
        if not 1 <= rank <= num_samples:
            raise ValueError(
                f"memory holds {num_samples} latents but {name}={rank}: "
                f"choose {name} in 1..{num_samples} or raise the capacity"
            )
    if not isinstance(eta, jax.core.Tracer) and not 0 < float(eta) < float("inf"):
        raise ValueError(
            f"eta={eta} but the radius of a move must be positive and finite: use eta > 0, the default is 1.0"
        )
    if dim > _MAX_RELIABLE_DIM:
        warnings.warn(
            f"latent dimension {dim} is above {_MAX_RELIABLE_DIM}: neighbour distances say little about density there; "
            f"project to fewer dimensions",
            stacklevel=3,
        )
