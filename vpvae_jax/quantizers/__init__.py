"""One file a method, one protocol (`base.Quantizer`). A new method is a new file and a line in `QUANTIZERS`."""

from vpvae_jax.quantizers.base import Quantizer
from vpvae_jax.quantizers.vp import vp

QUANTIZERS = {"vp": vp}

__all__ = ["QUANTIZERS", "Quantizer", "vp"]
