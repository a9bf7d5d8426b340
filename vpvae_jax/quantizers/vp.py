"""VP: latents are perturbed while training; the codebook is fitted by k-means afterwards."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import kmeans
from vpvae_jax.perturbation import calibration, memory, metropolis, neighbor
from vpvae_jax.quantizers.base import Quantizer, fit_by_kmeans, identity, look_up, on_any_mesh
from vpvae_jax.quantizers.latent_norm import AUTHORS, LatentNorm

MOVES = ("metropolis", "neighbor")
_NEIGHBORS_PER_DIM = 16  # M = round(16 d): the authors' setting


class VPState(NamedTuple):
    """State that VP carries through training."""

    memory: memory.Memory
    calibration: calibration.Calibration  # constant unless eta is "auto"


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
    push_fraction: float = 0.01,
    latent_norm: LatentNorm = AUTHORS,
    kmeans_iterations: int = 100,
) -> Quantizer:
    """Vector perturbation: no codebook during training.

    Args:
        codebook_size: K, number of codes that `fit` makes.
        latent_dim: d. At most 8 with `move="metropolis"`: above it most moves are rejected (warned, the rates are in
            `metropolis.perturb`).
        move: "metropolis": one Metropolis-Hastings step (`perturbation.metropolis`); "neighbor": a move to one of the M
            nearest latents of the memory, our own variant, which rejects nothing (`perturbation.neighbor`).
        accept: rule of the Metropolis-Hastings step, "metropolis", "density" or "always", see `metropolis.perturb`.
        eta: scale of the perturbation, dimensionless, positive. "auto" adjusts it during training so that latents move
            as far as k-means would move them (`perturbation.calibration` says where it cannot).
        match: with `eta="auto"`, which length of the moves is matched, "mean" or "rms".
        calibrate_every: with `eta="auto"`, steps from one k-means on the memory to the next, at least 1.
        k_radius: M, neighbour rank that sets the radius; default `16 d`.
        k_density: k, neighbour rank that sets the density.
        capacity: |S|, latents in the memory; default `K * M`, so that a ball to the M-th neighbour holds the mass of
            one of K cells. Another capacity keeps M, and so perturbs as a codebook of size |S| / M would.
        push_fraction: share of each batch's tokens that is pushed to the memory, in (0, 1], at least one token.
        latent_norm: weights of L_norm.
        kmeans_iterations: upper bound on the Lloyd iterations of `fit`.

    Returns:
        A `Quantizer` with `params = {}`, `state` a `VPState`.

    Raises:
        ValueError: a setting that cannot work, with its remedy.

    Avoid when: d is above 8 and `move="metropolis"`, see `metropolis.perturb`.

    Source: arXiv 2602.17133; the defaults are those of the authors' code.
    """
    kmeans.check_codebook(codebook_size, latent_dim)
    if move not in MOVES:
        raise ValueError(f"move={move!r}: expected one of {', '.join(MOVES)}")
    if move == "neighbor" and accept != "metropolis":
        raise ValueError(f"accept={accept!r} with move='neighbor', which rejects nothing: leave accept='metropolis'")
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
        rejects=move == "metropolis",
    )
    norm = dataclasses.replace(latent_norm)
    if is_auto and num_samples < codebook_size:
        raise ValueError(
            f"capacity={num_samples} latents in the memory are too few to measure the error of {codebook_size} codes: "
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
        with jax.named_scope("perturbation"):  # benchmarks/train_step.py looks for this name
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
                )
                info |= {"acceptance_rate": step.acceptance_rate, "radius": step.radius.mean()}
        loss = norm.loss(z)
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

    return on_any_mesh(
        Quantizer(
            input_dim=latent_dim,
            latent_dim=latent_dim,
            codebook_size=codebook_size,
            fitted_afterwards=True,
            init=init,
            train=train,
            project=identity,
            fit=fit_by_kmeans(codebook_size, kmeans_iterations),
            encode=kmeans.assign,
            decode=look_up,
        )
    )
