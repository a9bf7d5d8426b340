"""One file for each method, one protocol (`base.Quantizer`). A new method is a new file and a line in `QUANTIZERS`.

The protocol test builds every entry with `paper.settings`: a factory takes `codebook_size` and `latent_dim`, or
`levels`. Its arguments are annotated and described under `Args:`: the documentation of config keys comes from there.
"""

from collections.abc import Callable

from vpvae_jax.quantizers.base import Quantizer
from vpvae_jax.quantizers.fsp import fsp
from vpvae_jax.quantizers.fsq import fsq
from vpvae_jax.quantizers.latent_norm import LatentNorm
from vpvae_jax.quantizers.none import none
from vpvae_jax.quantizers.simvq import simvq
from vpvae_jax.quantizers.tokenbridge import tokenbridge
from vpvae_jax.quantizers.vp import vp
from vpvae_jax.quantizers.vq import vq

QUANTIZERS: dict[str, Callable[..., Quantizer]] = {
    "vp": vp,
    "fsp": fsp,
    "fsq": fsq,
    "vq": vq,
    "simvq": simvq,
    "tokenbridge": tokenbridge,
    "none": none,
}

__all__ = ["QUANTIZERS", "LatentNorm", "Quantizer", "fsp", "fsq", "none", "simvq", "tokenbridge", "vp", "vq"]
