"""Perturb latents as a quantizer would, by one Metropolis-Hastings step that stays inside their distribution.

The target density at z is estimated from the distance to its k-th nearest neighbour in a memory of recent latents,
`pi(z) ~ 1 / D_k(z)^d`. A move stays in a ball of radius `R(z) = eta * D_M(z)` with `M = |S| / K`, which at eta = 1
holds the mass of one of K cells. Since some moves are rejected, the mean move is shorter than the mean error of a
k-means codebook of size K: 0.55 of it at eta = 1 and 0.8 at eta = 2 (N(0, I), K = 256 and 1024). The functions for one
latent (`propose`, `log_acceptance_ratio`) are vmapped by `metropolis_step`.
"""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vpvae_jax.neighbors import neighbor_distances_along
from vpvae_jax.neighbors.sharding import on_auto_axes, spec_of

_MAX_METROPOLIS_DIM = 8  # above it most moves are rejected, see `perturb`
_MAX_RELIABLE_DIM = 16  # above it neighbour distances concentrate, and the density estimate says little
ACCEPT = ("metropolis", "density", "always")
_MIN_ACCEPT_U = 1e-6  # the authors' floor for the uniform draw, so that its logarithm stays finite


class Draws(NamedTuple):
    """The random numbers of one step for n latents, an argument so that reference numbers can be reproduced."""

    direction: jax.Array  # (n, d) from N(0, I), normalised by `propose`
    rho: jax.Array  # (n,) from U[0, 1), the radial draw
    accept_u: jax.Array  # (n,) from U[0, 1), the acceptance draw


class StepInfo(NamedTuple):
    """What a step did, per latent; float32 unless stated."""

    acceptance_rate: jax.Array  # () share of accepted moves
    accepted: jax.Array  # (n,) bool
    radius: jax.Array  # (n,) R(z) = eta * D_M(z)
    proposal: jax.Array  # (n, d) z', whether or not accepted
    proposal_radius: jax.Array  # (n,) R(z')
    density_distance: jax.Array  # (n,) D_k(z)
    proposal_density_distance: jax.Array  # (n,) D_k(z')
    log_acceptance_ratio: jax.Array  # (n,) not capped at 0; -inf where D_k(z) or R(z) is 0
    num_not_finite: jax.Array  # () int32, latents and members of the memory that are not finite


def propose(z: jax.Array, radius: jax.Array, direction: jax.Array, rho: jax.Array) -> jax.Array:
    """Draw a point uniform in the ball around z: `z' = z + radius * rho^(1/d) * direction / |direction|`.

    Args:
        z: `(d,)` latent.
        radius: `()` radius of the ball, in units of the latent space.
        direction: `(d,)` draw from N(0, I).
        rho: `()` draw from U[0, 1).

    Returns:
        `(d,)` z'.

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
    """Compute the logarithm of target ratio times proposal ratio, not capped at 0.

    `d * (log D_k(z) + log R(z) - log D_k(z') - log R(z'))`: the target is `1 / D_k^d`, the proposal density
    `1 / R^d`. The factor eta in both radii cancels. A latent at distance 0 from its neighbours has infinite density:
    its ratio is -inf, so that it stays.

    Args:
        density_distance: `()` D_k(z).
        radius: `()` R(z), or D_M(z).
        proposal_density_distance: `()` D_k(z').
        proposal_radius: `()` R(z'), or D_M(z').
        dim: latent dimension d.

    Returns:
        `()` float32.

    Source: arXiv 2602.17133, section 3 (acceptance).
    """
    forward = jnp.log(density_distance) + jnp.log(radius)
    reverse = jnp.log(proposal_density_distance) + jnp.log(proposal_radius)
    return dim * _difference(forward, reverse)


def _difference(forward: jax.Array, reverse: jax.Array) -> jax.Array:
    """Subtract logarithms; -inf minus -inf and inf minus inf are -inf, a rejection, and never NaN."""
    is_impossible = (forward == -jnp.inf) | (reverse == jnp.inf)
    return jnp.where(is_impossible, -jnp.inf, forward - jnp.where(is_impossible, 0.0, reverse))


def metropolis_step(
    samples: jax.Array,
    z: jax.Array,
    draws: Draws,
    *,
    k_radius: int,
    k_density: int,
    eta: float | jax.Array,
    accept: str = "metropolis",
) -> tuple[jax.Array, StepInfo]:
    """Take the step of `perturb` with given random numbers.

    A move is accepted if `log u < log_acceptance_ratio` and the reverse move is possible: z is inside the ball around
    z', `|z' - z| < R(z')`. A latent whose distances are 0 (repeated latents in the memory) stays.

    Args:
        samples: `(num_samples, d)` memory.
        z: `(n, d)` latents.
        draws: see `Draws`.
        k_radius: M, rank of the neighbour that sets the radius.
        k_density: k, rank of the neighbour that sets the density.
        eta: scale of the radius, dimensionless.
        accept: see `perturb`.

    Returns:
        z_tilde: `(n, d)` float32 with `d z_tilde / d z = I`.
        info: see `StepInfo`.
    """
    z = z.astype(jnp.float32)
    start, eta = jax.lax.stop_gradient(z), jnp.asarray(eta, jnp.float32)
    # A proposal in units of D_M, so that one search finds its scale and its own neighbours.
    origin = jnp.zeros(z.shape[1:], jnp.float32)
    steps = jax.vmap(functools.partial(propose, origin, eta))(draws.direction, draws.rho)
    distances, proposal, proposal_distances = neighbor_distances_along(samples, start, steps, (k_density, k_radius))
    (d_k, d_m), (d_k_new, d_m_new) = distances.T, proposal_distances.T

    log_ratio = log_acceptance_ratio(d_k, d_m, d_k_new, d_m_new, z.shape[-1])
    log_u = jnp.log(jnp.maximum(draws.accept_u, _MIN_ACCEPT_U))
    if accept == "always":
        accepted = jnp.ones_like(log_u, bool)
    elif accept == "density":
        accepted = log_u < z.shape[-1] * _difference(jnp.log(d_k), jnp.log(d_k_new))
    else:
        is_reversible = jnp.linalg.norm(proposal - start, axis=-1) < eta * d_m_new
        accepted = (log_u < log_ratio) & is_reversible

    z_tilde = z + jnp.where(accepted[:, None], proposal - start, 0.0)
    return z_tilde, StepInfo(
        acceptance_rate=accepted.mean(dtype=jnp.float32),
        accepted=accepted,
        radius=eta * d_m,
        proposal=proposal,
        proposal_radius=eta * d_m_new,
        density_distance=d_k,
        proposal_density_distance=d_k_new,
        log_acceptance_ratio=log_ratio,
        num_not_finite=count_not_finite(samples, start),
    )


def count_not_finite(*arrays: jax.Array) -> jax.Array:
    """Count the rows of `(n, d)` arrays that are not finite, `()` int32."""
    counts = [(~jnp.isfinite(array).all(axis=-1)).sum(dtype=jnp.int32) for array in arrays]
    return jnp.stack(counts).sum(dtype=jnp.int32)


def perturb(
    key: jax.Array,
    samples: jax.Array,
    z: jax.Array,
    *,
    k_radius: int,
    k_density: int = 8,
    eta: float | jax.Array = 1.0,
    accept: str = "metropolis",
) -> tuple[jax.Array, StepInfo]:
    """Move each latent by one Metropolis-Hastings step within the distribution of `samples`.

    The step leaves invariant the density that the k nearest neighbours estimate. The move is a constant to the
    gradient: `d z_tilde / d z = I`.

    Args:
        key: random key.
        samples: `(num_samples, d)` recent latents, the `samples` of a `Memory`. One that is not finite leaves every
            latent in place on a CPU (with accept="always" it makes them NaN).
        z: `(n, d)` latents; computed in float32. One that is not finite comes back unchanged.
        k_radius: M = ceil(num_samples / K), the rank whose distance is the radius of the move.
        k_density: k, the rank whose distance gives the density.
        eta: scale of the radius, dimensionless, positive.
        accept: "metropolis": the step described above. The other rules are for ablations and leave no density
            invariant. "density": by the ratio of the densities only, without the correction for the size of the balls
            and without the check that a reverse move exists; "always": every move.

    Returns:
        z_tilde: `(n, d)` float32.
        info: `StepInfo`. Where memory and latents share a distribution, `info.acceptance_rate` is about 0.6 for d of 3
            to 5 at eta = 1, and falls with d (see below) and with eta. `info.num_not_finite` is 0 in a healthy run.

    Raises:
        ValueError: eta <= 0, an unknown rule, a rank above the number of samples, or shapes that do not match.

    Avoid when: d is above 8 (warned). On N(0, I) with K = 1024 and eta = 1 the acceptance rate is 0.38 at d = 8, 0.18
        at d = 12 and 0.08 at d = 16, so that hardly any latent moves; with K = 64 and eta = 2 it is only 0.04 at d = 8.
        `perturb_to_neighbor` rejects nothing. Above 16 dimensions (warned too) neighbour distances say little about
        density. Avoid also when the latents are far from the memory.

    Source: arXiv 2602.17133, section 3.
    """
    check_perturbation(
        num_samples=samples.shape[0], dim=z.shape[-1], k_radius=k_radius, k_density=k_density, eta=eta, accept=accept
    )
    check_shape(z)
    return _perturb(key, samples, z, eta, k_radius=k_radius, k_density=k_density, accept=accept)


@functools.partial(jax.jit, static_argnames=("k_radius", "k_density", "accept"))
def _perturb(key, samples, z, eta, **settings):
    def draw_and_step(key, samples, z, eta):
        direction_key, rho_key, accept_key = jax.random.split(key, 3)
        draws = Draws(
            direction=jax.random.normal(direction_key, z.shape, jnp.float32),
            rho=jax.random.uniform(rho_key, z.shape[:1], jnp.float32),
            accept_u=jax.random.uniform(accept_key, z.shape[:1], jnp.float32),
        )
        return metropolis_step(samples, z, draws, eta=eta, **settings)

    rows = spec_of(z, 1)
    info = dict.fromkeys(StepInfo._fields, rows) | {"acceptance_rate": P(), "num_not_finite": P()}
    return on_auto_axes(draw_and_step, key, samples, z, eta, out_specs=(rows, StepInfo._make(info.values())))


def check_shape(z: jax.Array) -> None:
    """Raise ValueError for latents that are not `(n, d)`."""
    if z.ndim != 2:
        raise ValueError(f"z has shape {z.shape}, expected (n, d): reshape it with z.reshape(-1, {z.shape[-1]})")


def check_perturbation(
    *,
    num_samples: int,
    dim: int,
    k_radius: int,
    k_density: int,
    eta: float | jax.Array,
    accept: str = "metropolis",
    rejects: bool = True,
) -> None:
    """Raise ValueError for settings that cannot work, and warn of a latent dimension that is too high.

    Args:
        num_samples: size of the memory.
        dim: d.
        k_radius: see `perturb`.
        k_density: see `perturb`.
        eta: see `perturb`.
        accept: see `perturb`.
        rejects: whether moves can be rejected; not those of `perturb_to_neighbor`.
    """
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
    elif dim > _MAX_METROPOLIS_DIM and rejects and accept == "metropolis":
        warnings.warn(
            f"latent dimension {dim} is above {_MAX_METROPOLIS_DIM}: Metropolis-Hastings rejects most moves there (on "
            f"N(0, I) 82 % at d = 12, 92 % at d = 16); use move='neighbor' (perturb_to_neighbor), which rejects none, "
            f"or project to fewer dimensions",
            stacklevel=3,
        )
