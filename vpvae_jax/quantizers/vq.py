"""VQ-VAE: a codebook learned with the representation, by gradient or by running means."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import kmeans
from vpvae_jax.neighbors import nearest
from vpvae_jax.quantizers.base import Quantizer, batch_usage, identity, look_up, on_any_mesh, straight_through

UPDATES = ("gradient", "ema")
_SMOOTHING = 1e-5  # Laplace smoothing of the running counts, van den Oord et al.


class EMAState(NamedTuple):
    """Running means, and the codebook that they give."""

    codebook: jax.Array  # (K, d)
    counts: jax.Array  # (K,) running number of latents of a batch that are nearest to a code
    sums: jax.Array  # (K, d) running sum of these latents


def quantize(
    codebook: jax.Array, z: jax.Array, commitment_weight: float, codebook_weight: float = 1.0
) -> tuple[jax.Array, jax.Array, jax.Array, dict[str, jax.Array]]:
    """Replace each latent by its nearest code, straight through.

    Args:
        codebook: `(K, d)`, gets the gradient of the codebook loss.
        z: `(n, d)` float32 latents.
        commitment_weight: beta, of `mean (z - sg(q))^2`.
        codebook_weight: of `mean (sg(z) - q)^2`.

    Returns:
        z_tilde: `(n, d)` float32.
        indices: `(n,)` int32.
        loss: `()` float32.
        info: scalars to log.
    """
    indices, _ = nearest(codebook, z)
    z_q = codebook[indices]
    loss = commitment_weight * jnp.mean((z - jax.lax.stop_gradient(z_q)) ** 2)
    loss += codebook_weight * jnp.mean((jax.lax.stop_gradient(z) - z_q) ** 2)
    info = {
        "move_length": jnp.linalg.norm(jax.lax.stop_gradient(z_q - z), axis=-1).mean(),
        "batch_usage": batch_usage(indices, codebook.shape[0]),
    }
    return straight_through(z, z_q), indices, loss, info


def vq(
    codebook_size: int,
    latent_dim: int,
    *,
    commitment_weight: float = 0.25,
    update: str = "gradient",
    decay: float = 0.99,
    restart_below: float = 0.0,
) -> Quantizer:
    """Vector quantization with straight-through gradients.

    Loss `mean (sg(z) - q)^2 + beta * mean (z - sg(q))^2`; with `update="ema"` only the second term.

    Args:
        codebook_size: K, number of codes.
        latent_dim: d.
        commitment_weight: beta, 0 or more.
        update: "gradient": the codebook is a parameter; "ema": it follows running means of its latents.
        decay: decay of the running means in [0, 1), only with "ema".
        restart_below: share in [0, 1) of the average code's running count of latents; a code below it is moved to a
            latent of the batch. Only with "ema"; 0 for never.

    Returns:
        A `Quantizer`; the codebook is in `params` ("gradient") or in the state, an `EMAState` ("ema").

    Raises:
        ValueError: a setting that cannot work, with its remedy.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), its appendix for the running means; like there, codes start
        from U(-1/K, 1/K).
    """
    kmeans.check_codebook(codebook_size, latent_dim)
    if update not in UPDATES:
        raise ValueError(f"update={update!r}: expected one of {', '.join(UPDATES)}")
    if not commitment_weight >= 0:
        raise ValueError(f"commitment_weight={commitment_weight}: expected 0 or more, 0 turns the term off")
    if not 0 <= decay < 1:
        raise ValueError(f"decay={decay}: expected a decay in [0, 1), such as 0.99")
    if not 0 <= restart_below < 1 or (restart_below and update != "ema"):
        raise ValueError(f"restart_below={restart_below}: expected 0, or a share in (0, 1) with update='ema'")

    def init(key):
        codebook = jax.random.uniform(
            key, (codebook_size, latent_dim), jnp.float32, -1 / codebook_size, 1 / codebook_size
        )
        if update == "gradient":
            return {"codebook": codebook}, {}
        return {}, EMAState(codebook, jnp.ones((codebook_size,), jnp.float32), codebook)

    def train(params, state, z, key):
        z = z.astype(jnp.float32)
        if update == "gradient":
            z_tilde, _, loss, info = quantize(params["codebook"], z, commitment_weight)
            return z_tilde, state, loss, info
        # A codebook in the state gets no gradient: its loss would only add a constant.
        z_tilde, indices, loss, info = quantize(state.codebook, z, commitment_weight, codebook_weight=0.0)
        return z_tilde, _follow(state, jax.lax.stop_gradient(z), indices, key), loss, info

    def _follow(state, z, indices, key):
        batch_counts = jnp.zeros_like(state.counts).at[indices].add(1.0)
        counts = decay * state.counts + (1 - decay) * batch_counts
        sums = decay * state.sums + (1 - decay) * jnp.zeros_like(state.sums).at[indices].add(z)
        is_dead = counts < restart_below * z.shape[0] / codebook_size
        newcomers = z[jax.random.randint(key, (codebook_size,), 0, z.shape[0], jnp.int32)]
        # A code that was moved starts with an average count, so that it has time to gather latents of its own.
        fresh = z.shape[0] / codebook_size
        counts = jnp.where(is_dead, fresh, counts)
        sums = jnp.where(is_dead[:, None], fresh * newcomers, sums)
        total = counts.sum()
        smoothed = (counts + _SMOOTHING) / (total + codebook_size * _SMOOTHING) * total
        return EMAState(sums / smoothed[:, None], counts, sums)

    def fit(params, state, latents, key):
        del latents, key
        return params["codebook"] if update == "gradient" else state.codebook

    return on_any_mesh(
        Quantizer(
            input_dim=latent_dim,
            latent_dim=latent_dim,
            codebook_size=codebook_size,
            fitted_afterwards=False,
            init=init,
            train=train,
            project=identity,
            fit=fit,
            encode=kmeans.assign,
            decode=look_up,
        )
    )
