"""What the paper sets for each method and codebook size, as keyword arguments of the factories."""

from __future__ import annotations

from typing import Any

from vpvae_jax.quantizers.tokenbridge import tokenbridge

# Levels of FSP and FSQ; their number is also the latent dimension of the other methods.
LEVELS = {
    16: (4, 4),  # 16 and 64: ours
    64: (4, 4, 4),
    256: (8, 6, 5),
    1024: (8, 5, 5, 5),
    4096: (7, 5, 5, 5, 5),
    16384: (8, 8, 8, 6, 5),
}
METHODS = ("vp", "fsp", "fsq", "vq", "simvq", "tokenbridge", "none")


def settings(name: str, codebook_size: int) -> dict[str, Any]:
    """Arguments that depend on the method and on K; every other argument keeps its default.

    Args:
        name: one of `METHODS`; `fsq` is the paper's baseline, symmetric with noise.
        codebook_size: K, one of `LEVELS`.

    Raises:
        ValueError: another method or size.

    Source: arXiv 2602.17133, experimental setup.
    """
    if name not in METHODS:
        raise ValueError(f"quantizer={name}: expected one of {', '.join(METHODS)}")
    if codebook_size not in LEVELS:
        raise ValueError(
            f"codebook_size={codebook_size}: expected one of {', '.join(map(str, LEVELS))}; "
            f"for another, start from one of these and set --config.quantizer.codebook_size, or .levels"
        )
    levels = LEVELS[codebook_size]
    if name == "fsp":
        return {"levels": levels}
    if name == "fsq":
        return {"levels": levels, "symmetric": True, "noise_rate": 0.5}
    if name == "tokenbridge":
        return {"codebook_size": codebook_size, "latent_dim": tokenbridge(codebook_size).latent_dim}
    return {"codebook_size": codebook_size, "latent_dim": len(levels)}
