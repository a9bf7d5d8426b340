"""VP-VAE in JAX: latents are perturbed, not quantized, while training; the codebook comes after.

What another JAX model needs, importable with jax, numpy and numba alone. Training, data and evaluation live in
`vpvae_jax.main` and the packages beneath it.
"""

from vpvae_jax.codebooks.kmeans import assign, kmeans
from vpvae_jax.neighbors import neighbor_distances
from vpvae_jax.perturbation.memory import Memory
from vpvae_jax.perturbation.memory import init as memory_init
from vpvae_jax.perturbation.memory import push as memory_push
from vpvae_jax.perturbation.metropolis import log_acceptance_ratio, perturb, propose
from vpvae_jax.quantizers import Quantizer, vp

__version__ = "0.1.0"

__all__ = [
    "Memory",
    "Quantizer",
    "assign",
    "kmeans",
    "log_acceptance_ratio",
    "memory_init",
    "memory_push",
    "neighbor_distances",
    "perturb",
    "propose",
    "vp",
]
