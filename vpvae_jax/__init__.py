"""VP-VAE in JAX: latents are perturbed, not quantized, while training; the codebook comes after.

The names here are what another JAX model needs: the sampler, k-means and the quantizers. They are imported at their
first use, with jax, numpy and numba only, so that importing another part of the package does not import jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpvae_jax.codebooks.kmeans import assign, kmeans
    from vpvae_jax.neighbors import neighbor_distances
    from vpvae_jax.perturbation.memory import Memory
    from vpvae_jax.perturbation.memory import init as memory_init
    from vpvae_jax.perturbation.memory import push as memory_push
    from vpvae_jax.perturbation.metropolis import log_acceptance_ratio, perturb, propose
    from vpvae_jax.perturbation.neighbor import perturb_to_neighbor
    from vpvae_jax.quantizers import QUANTIZERS, LatentNorm, Quantizer, fsp, fsq, none, simvq, tokenbridge, vp, vq

__version__ = "0.2.0"

__all__ = [
    "QUANTIZERS",
    "LatentNorm",
    "Memory",
    "Quantizer",
    "assign",
    "fsp",
    "fsq",
    "kmeans",
    "log_acceptance_ratio",
    "memory_init",
    "memory_push",
    "neighbor_distances",
    "none",
    "perturb",
    "perturb_to_neighbor",
    "propose",
    "simvq",
    "tokenbridge",
    "vp",
    "vq",
]

# Where each name is: its module and, if it differs, its name there.
_SOURCES = {
    "Memory": "perturbation.memory",
    "assign": "codebooks.kmeans",
    "kmeans": "codebooks.kmeans",
    "log_acceptance_ratio": "perturbation.metropolis",
    "memory_init": "perturbation.memory:init",
    "memory_push": "perturbation.memory:push",
    "neighbor_distances": "neighbors",
    "perturb": "perturbation.metropolis",
    "perturb_to_neighbor": "perturbation.neighbor",
    "propose": "perturbation.metropolis",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, source = _SOURCES.get(name, "quantizers").partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), source or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
