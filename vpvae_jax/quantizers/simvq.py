"""SimVQ: a frozen random codebook seen through one learned linear map, so that every code moves with each update."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from vpvae_jax.codebooks import kmeans
from vpvae_jax.quantizers.base import Quantizer, identity, look_up, on_any_mesh
from vpvae_jax.quantizers.vq import quantize


def simvq(codebook_size: int, latent_dim: int, *, commitment_weight: float = 0.25) -> Quantizer:
    """Vector quantization with the codebook `C W + b`, C frozen.

    Loss `mean (sg(z) - q)^2 + beta * mean (z - sg(q))^2`. `fit` returns the projected codebook, which `decode` uses;
    the published code decodes indices with C itself, which is another codebook.

    Args:
        codebook_size: K, number of codes.
        latent_dim: d.
        commitment_weight: beta, 0 or more.

    Returns:
        A `Quantizer`; W and b are in `params`, C in the state.

    Raises:
        ValueError: a setting that cannot work, with its remedy.

    Source: Zhu et al. 2024 (arXiv 2411.02038); C from N(0, 1/d), W and b from U(-1/sqrt(d), 1/sqrt(d)).
    """
    kmeans.check_codebook(codebook_size, latent_dim)
    if not commitment_weight >= 0:
        raise ValueError(f"commitment_weight={commitment_weight}: expected 0 or more, 0 turns the term off")

    def init(key):
        codebook_key, kernel_key, bias_key = jax.random.split(key, 3)
        frozen = jax.random.normal(codebook_key, (codebook_size, latent_dim), jnp.float32) / math.sqrt(latent_dim)
        bound = 1 / math.sqrt(latent_dim)
        kernel = jax.random.uniform(kernel_key, (latent_dim, latent_dim), jnp.float32, -bound, bound)
        bias = jax.random.uniform(bias_key, (latent_dim,), jnp.float32, -bound, bound)
        return {"kernel": kernel, "bias": bias}, {"codebook": frozen}

    def projected(params, state):
        return state["codebook"] @ params["kernel"] + params["bias"]

    def train(params, state, z, key):
        del key
        z_tilde, _, loss, info = quantize(projected(params, state), z.astype(jnp.float32), commitment_weight)
        return z_tilde, state, loss, info

    def fit(params, state, latents, key):
        del latents, key
        return projected(params, state)

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
