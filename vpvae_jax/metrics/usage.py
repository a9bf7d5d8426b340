"""How much of a codebook is in use."""

from __future__ import annotations

import numpy as np


def cvu(counts: np.ndarray) -> float:
    """Codebook valid usage `exp(H(p)) / K`: the share of the codebook that is in effective use.

    Args:
        counts: `(K,)` how often each code that exists was used, over a whole evaluation set.

    Returns:
        A number between 1 / K (collapse) and 1 (all codes alike).

    Raises:
        ValueError: no token was counted.

    Source: arXiv 2602.17133, evaluation.
    """
    counts = np.asarray(counts, np.float64)
    if counts.sum() <= 0:
        raise ValueError("CVU needs at least one token: counts are all zero")
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))) / len(counts))
