"""VP: latents are perturbed while training; the codebook is fitted by k-means afterwards."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import kmeans
from vpvae_jax.perturbation import memory, metropolis
from vpvae_jax.quantizers import moments
from vpvae_jax.quantizers.base import Quantizer

_NEIGHBORS_PER_DIM = 16  # M = round(16 d): the authors' setting


def vp(
    codebook_size: int,
    latent_dim: int,
    *,
    k_radius: int | None = None,
    k_density: int = 8,
    eta: float = 1.0,
    capacity: int | None = None,
    push_fraction: float = 0.01,
    mean_weight: float = moments.MEAN_WEIGHT,
    variance_weight: float = moments.VARIANCE_WEIGHT,
    skewness_weight: float = 0.0,
    kurtosis_weight: float = 0.0,
    kmeans_iterations: int = 100,
) -> Quantizer:
    """Variational-perturbation quantizer: no codebook during training.

    Args:
        codebook_size: K, number of codes that a fit makes.
        latent_dim: d, at most 16 advised.
        k_radius: M, neighbour rank that sets the radius; default `16 d`.
        k_density: k, neighbour rank that sets the density.
        eta: scale of the perturbation, dimensionless, positive.
        capacity: |S|, latents in the memory; default `K * M`, so that a ball to the M-th neighbour holds the mass of
            one of K cells. Another capacity keeps M as given and so perturbs as a codebook of size |S| / M would.
        push_fraction: share of each batch's tokens that enters the memory, at least one token.
        mean_weight: l1 of L_norm; 0 turns the term off.
        variance_weight: l2 of L_norm; 0 turns the term off.
        skewness_weight: of the squared third moment in L_norm, off by default; the authors' preset for it has 0.06.
        kurtosis_weight: of the squared excess fourth moment, off by default; the authors' preset has 0.05.
        kmeans_iterations: upper bound on Lloyd iterations of a fit.

    Returns:
        A `Quantizer` with `params = {}`, `state` a `Memory`, `codebook` a `(K, d)` float32 array.

    Raises:
        ValueError: a setting that cannot work, with its remedy.

    Source: arXiv 2602.17133; the defaults are those of the authors' code.
    """
    if codebook_size < 1:
        raise ValueError(f"codebook_size={codebook_size}: a codebook needs at least one code")
    if latent_dim < 1:
        raise ValueError(f"latent_dim={latent_dim}: a latent needs at least one dimension")
    if not 0 < push_fraction <= 1:
        raise ValueError(f"push_fraction={push_fraction}: expected a share of the batch's tokens in (0, 1]")
    if k_radius is not None and k_radius < 1:
        raise ValueError(f"k_radius={k_radius}: expected a neighbour rank of at least 1, the default is 16 d")
    radius_rank = round(_NEIGHBORS_PER_DIM * latent_dim) if k_radius is None else k_radius
    num_samples = codebook_size * radius_rank if capacity is None else capacity
    metropolis.check_perturbation(
        num_samples=num_samples, dim=latent_dim, k_radius=radius_rank, k_density=k_density, eta=eta
    )

    def init(key):
        return {}, memory.init(key, num_samples, latent_dim)

    def train(params, state, z, key):
        del params
        perturb_key, push_key = jax.random.split(key)
        z = z.astype(jnp.float32)
        z_tilde, step = metropolis.perturb(
            perturb_key, state.samples, z, k_radius=radius_rank, k_density=k_density, eta=eta
        )
        loss = moments.latent_norm_loss(
            z,
            mean_weight=mean_weight,
            variance_weight=variance_weight,
            skewness_weight=skewness_weight,
            kurtosis_weight=kurtosis_weight,
        )
        num_pushed = min(max(1, round(push_fraction * z.shape[0])), num_samples)
        pushed = jax.random.choice(push_key, z, (num_pushed,), replace=False)
        move = jnp.linalg.norm(jax.lax.stop_gradient(z_tilde - z), axis=-1)
        info = {
            "acceptance_rate": step.acceptance_rate,
            "move_length": move.mean(),
            "radius": step.radius.mean(),
        }
        return z_tilde, memory.push(state, pushed), loss, info

    def fit(params, state, latents, key):
        del params, state
        codebook, _ = kmeans.kmeans(key, latents, codebook_size, max_iterations=kmeans_iterations)
        return codebook

    return Quantizer(
        input_dim=latent_dim,
        latent_dim=latent_dim,
        codebook_size=codebook_size,
        init=init,
        train=train,
        fit=fit,
        encode=kmeans.assign,
        decode=lambda codebook, indices: codebook[indices],
    )
