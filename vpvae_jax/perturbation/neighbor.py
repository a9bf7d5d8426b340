"""Perturb latents by drawing recent ones: each moves to one of its nearest neighbours in the memory."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vpvae_jax.neighbors import neighbor_at_rank
from vpvae_jax.neighbors.sharding import on_auto_axes, spec_of
from vpvae_jax.perturbation.metropolis import check_perturbation, check_shape, count_not_finite


class NeighborInfo(NamedTuple):
    """What a move did, per latent."""

    neighbor: jax.Array  # (n,) int32, index of the member of the memory that was drawn
    rank: jax.Array  # (n,) int32, its rank among the neighbours, 1 for the nearest
    num_not_finite: jax.Array  # () int32, latents and members of the memory that are not finite


def perturb_to_neighbor(
    key: jax.Array, samples: jax.Array, z: jax.Array, *, k_radius: int, eta: float | jax.Array = 1.0
) -> tuple[jax.Array, NeighborInfo]:
    """Move each latent to one of its M nearest members of the memory: `z_tilde = z + eta * (s - z)`.

    s is drawn uniformly from the M members nearest to z, so that a move ends where latents are and none is rejected,
    whatever d. With M = |S| / K the ball of these members holds the mass of one of K cells. The mean squared move at
    eta = 1 is the mean squared error of a quantizer with such balls for cells, `d / (d + 2) * D_M^2` at constant
    density.

    The move is a constant to the gradient: `d z_tilde / d z = I`.

    Args:
        key: random key.
        samples: `(num_samples, d)` recent latents, the `samples` of a `Memory`.
        z: `(n, d)` latents; computed in float32. One that is not finite comes back unchanged.
        k_radius: M = ceil(num_samples / K), number of neighbours drawn from.
        eta: scale of the move, dimensionless, positive; only 1 ends on a member of the memory.

    Returns:
        z_tilde: `(n, d)` float32.
        info: see `NeighborInfo`.

    Raises:
        ValueError: eta <= 0, M above the number of samples, or shapes that do not match.

    Avoid when: a density must be left invariant exactly: like a mean-shift step it drifts towards denser regions, by
        the slope of the density within the ball.
    """
    check_perturbation(
        num_samples=samples.shape[0], dim=z.shape[-1], k_radius=k_radius, k_density=1, eta=eta, rejects=False
    )
    check_shape(z)
    return _perturb(key, samples, z, eta, k_radius=k_radius)


@functools.partial(jax.jit, static_argnames=("k_radius",))
def _perturb(key, samples, z, eta, *, k_radius):
    def draw_and_move(key, samples, z, eta):
        z, eta = z.astype(jnp.float32), jnp.asarray(eta, jnp.float32)
        start = jax.lax.stop_gradient(z)
        rank = jax.random.randint(key, z.shape[:1], 1, k_radius + 1, jnp.int32)
        neighbor = neighbor_at_rank(samples, start, rank, k_radius)
        move = eta * (jax.lax.stop_gradient(samples)[neighbor].astype(jnp.float32) - start)
        is_finite = jnp.isfinite(start).all(axis=-1, keepdims=True)
        info = NeighborInfo(neighbor, rank, count_not_finite(samples, start))
        return z + jnp.where(is_finite, move, 0.0), info

    rows = spec_of(z, 1)
    out_specs = (rows, NeighborInfo._make((rows, rows, P())))
    return on_auto_axes(draw_and_move, key, samples, z, eta, out_specs=out_specs)
