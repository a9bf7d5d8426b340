"""VP: latents are perturbed while training; the codebook is fitted by k-means afterwards."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import kmeans
from vpvae_jax.neighbors import check_approximate
from vpvae_jax.perturbation import calibration, memory, metropolis, neighbor
from vpvae_jax.quantizers import moments
from vpvae_jax.quantizers.base import Quantizer, fit_by_kmeans, identity, look_up

MOVES = ("metropolis", "neighbor")
_NEIGHBORS_PER_DIM = 16  # M = round(16 d): the authors' setting


class VPState(NamedTuple):
    """What VP carries through training."""

    memory: memory.Memory
    calibration: calibration.Calibration  # at rest unless eta is "auto"


def vp(
    codebook_size: int,
    latent_dim: int,
    *,
    move: str = "metropolis",
    accept: str = "metropolis",
    eta: float | str = 1.0,
    match: str = "mean",
    calibrate_every: int = 100,
    k_radius: int | None = None,
    k_density: int = 8,
    capacity: int | None = None,
    approximate: float = 0.0,
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
        move: "metropolis": one Metropolis-Hastings step (`perturbation.metropolis`); "neighbor": to one of the M
            nearest latents of the memory, our own variant (`perturbation.neighbor`).
        accept: rule of the Metropolis-Hastings step, "metropolis", "density" or "always", see `metropolis.perturb`.
        eta: scale of the perturbation, dimensionless, positive; "auto" steers it during training so that latents are
            moved as far as k-means would move them (`perturbation.calibration`, which tells where it cannot).
        match: with `eta="auto"`, which length of the moves is matched, "mean" or "rms".
        calibrate_every: with `eta="auto"`, steps from one k-means on the memory to the next.
        k_radius: M, neighbour rank that sets the radius; default `16 d`.
        k_density: k, neighbour rank that sets the density.
        capacity: |S|, latents in the memory; default `K * M`, so that a ball to the M-th neighbour holds the mass of
            one of K cells. Another capacity keeps M as given and so perturbs as a codebook of size |S| / M would.
        approximate: relative error that the distances of the Metropolis-Hastings step may have, for speed; 0 is exact,
            and the only value with which a resumed run repeats itself bit for bit.
        push_fraction: share of each batch's tokens that enters the memory, at least one token.
        mean_weight: l1 of L_norm; 0 turns the term off.
        variance_weight: l2 of L_norm; 0 turns the term off.
        skewness_weight: of the squared third moment in L_norm, off by default; the authors' preset for it has 0.06.
        kurtosis_weight: of the squared excess fourth moment, off by default; the authors' preset has 0.05.
        kmeans_iterations: upper bound on Lloyd iterations of a fit.

    Returns:
        A `Quantizer` with `params = {}`, `state` a `VPState`.

    Raises:
        ValueError: a setting that cannot work, with its remedy.

    Source: arXiv 2602.17133; the defaults are those of the authors' code.
    """
    kmeans.check_codebook(codebook_size, latent_dim)
    if move not in MOVES:
        raise ValueError(f"move={move!r}: expected one of {', '.join(MOVES)}")
    if move == "neighbor" and accept != "metropolis":
        raise ValueError(f"accept={accept!r} with move='neighbor', which rejects nothing: leave accept as it is")
    check_approximate(approximate)
    if move == "neighbor" and approximate:
        raise ValueError(f"approximate={approximate} with move='neighbor', whose search is exact: leave it at 0")
    if isinstance(eta, str) and eta != "auto":
        raise ValueError(f"eta={eta!r}: expected a positive number or 'auto'")
    if match not in calibration.MATCH:
        raise ValueError(f"match={match!r}: expected one of {', '.join(calibration.MATCH)}")
    if calibrate_every < 1:
        raise ValueError(f"calibrate_every={calibrate_every}: expected at least 1 step")
    if not 0 < push_fraction <= 1:
        raise ValueError(f"push_fraction={push_fraction}: expected a share of the batch's tokens in (0, 1]")
    if k_radius is not None and k_radius < 1:
        raise ValueError(f"k_radius={k_radius}: expected a neighbour rank of at least 1, the default is 16 d")
    radius_rank = round(_NEIGHBORS_PER_DIM * latent_dim) if k_radius is None else k_radius
    num_samples = codebook_size * radius_rank if capacity is None else capacity
    is_auto = eta == "auto"
    start_eta = 1.0 if is_auto else float(eta)
    metropolis.check_perturbation(
        num_samples=num_samples,
        dim=latent_dim,
        k_radius=radius_rank,
        k_density=k_density,
        eta=start_eta,
        accept=accept,
    )
    if is_auto and num_samples < codebook_size:
        raise ValueError(
            f"capacity={num_samples} latents in the memory cannot tell the error of {codebook_size} codes: "
            f"raise it, or set eta to a number"
        )

    def init(key):
        return {}, VPState(memory.init(key, num_samples, latent_dim), calibration.init(start_eta))

    def train(params, state, z, key):
        del params
        perturb_key, push_key, calibration_key = jax.random.split(key, 3)
        z = z.astype(jnp.float32)
        samples, step_eta = state.memory.samples, state.calibration.eta
        info = {"eta": step_eta}
        with jax.named_scope("perturbation"):  # benchmarks/train_step.py finds its time by this name
            if move == "neighbor":
                z_tilde, _ = neighbor.perturb_to_neighbor(perturb_key, samples, z, k_radius=radius_rank, eta=step_eta)
            else:
                z_tilde, step = metropolis.perturb(
                    perturb_key,
                    samples,
                    z,
                    k_radius=radius_rank,
                    k_density=k_density,
                    eta=step_eta,
                    accept=accept,
                    approximate=approximate,
                )
                info |= {"acceptance_rate": step.acceptance_rate, "radius": step.radius.mean()}
        loss = moments.latent_norm_loss(
            z,
            mean_weight=mean_weight,
            variance_weight=variance_weight,
            skewness_weight=skewness_weight,
            kurtosis_weight=kurtosis_weight,
        )
        moved = jax.lax.stop_gradient(z_tilde - z)
        info["move_length"] = jnp.linalg.norm(moved, axis=-1).mean()
        calibrated = state.calibration
        if is_auto:
            calibrated = calibration.follow(
                calibrated,
                calibration_key,
                samples,
                moved,
                codebook_size=codebook_size,
                every=calibrate_every,
                match=match,
            )
        num_pushed = min(max(1, round(push_fraction * z.shape[0])), num_samples)
        with jax.named_scope("memory_push"):
            pushed = jax.random.choice(push_key, z, (num_pushed,), replace=False)
            new_memory = memory.push(state.memory, pushed)
        return z_tilde, VPState(new_memory, calibrated), loss, info

    return Quantizer(
        input_dim=latent_dim,
        latent_dim=latent_dim,
        codebook_size=codebook_size,
        init=init,
        train=train,
        project=identity,
        fit=fit_by_kmeans(codebook_size, kmeans_iterations),
        encode=kmeans.assign,
        decode=look_up,
    )
