"""The paper's settings for each codebook size, as keyword arguments of the factories."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from vpvae_jax.quantizers.base import Quantizer

# Levels of FSP and FSQ; their number is also the latent dimension of the other methods.
LEVELS = {
    16: (4, 4),  # 16 and 64 are ours
    64: (4, 4, 4),
    256: (8, 6, 5),
    1024: (8, 5, 5, 5),
    4096: (7, 5, 5, 5, 5),
    16384: (8, 8, 8, 6, 5),
}


def settings(factory: Callable[..., Quantizer], codebook_size: int) -> dict[str, Any]:
    """Look up the arguments of a method that depend on K: its levels, or K and d where d does not follow from K.

    Args:
        factory: a value of `QUANTIZERS`.
        codebook_size: K, one of `LEVELS`.

    Returns:
        Keyword arguments for the factory.

    Raises:
        ValueError: another size.

    Source: arXiv 2602.17133, experimental setup.
    """
    if codebook_size not in LEVELS:
        raise ValueError(
            f"codebook_size={codebook_size}: expected one of {', '.join(map(str, LEVELS))}; "
            f"for another, start from one of these and set --config.quantizer.codebook_size, or .levels"
        )
    parameters = inspect.signature(factory).parameters
    levels = LEVELS[codebook_size]
    if "levels" in parameters:
        return {"levels": levels}
    is_dim_free = parameters["latent_dim"].default is inspect.Parameter.empty
    return {"codebook_size": codebook_size} | ({"latent_dim": len(levels)} if is_dim_free else {})
