"""Measure how much of a codebook is in use."""

from __future__ import annotations

import math

import numpy as np

_NUM_DEVIATIONS = 12  # of a count from its mean: what is beyond has no weight in float64


def cvu(counts: np.ndarray) -> float:
    """Compute codebook valid usage `exp(H(p)) / K`: the share of the codebook that is in effective use.

    Args:
        counts: `(K,)` how often each code was used, over a whole evaluation set.

    Returns:
        A number between 1 / K (collapse) and 1 (all codes used equally).

    Avoid when: there are few tokens for each code, where even equal use does not reach 1, see `cvu_ceiling`.

    Raises:
        ValueError: no token was counted.

    Source: arXiv 2602.17133, evaluation.
    """
    counts = np.asarray(counts, np.float64)
    if counts.sum() <= 0:
        raise ValueError("counts are all zero: CVU needs at least one token, pass the counts of an evaluation set")
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))) / len(counts))


def cvu_ceiling(num_codes: int, num_tokens: int) -> float:
    """Compute the CVU that a tokenizer with equal use of all codes is expected to reach with so few tokens.

    CVU of N tokens is biased down, by about `exp(-(K - 1) / 2N)`: state this number beside it. Computed as
    `exp(E[H]) / K`, where each code's count is binomial: `E[H] = log N - K / N * E[n log n]`, `n ~ B(N, 1 / K)`.

    Args:
        num_codes: K, codes that exist.
        num_tokens: N, tokens that are counted.

    Returns:
        A number between 1 / K (one token) and 1 (infinitely many).

    Raises:
        ValueError: no code or no token.
    """
    if num_codes < 1 or num_tokens < 1:
        raise ValueError(f"{num_codes} codes and {num_tokens} tokens: expected at least one of each")
    if num_codes == 1:
        return 1.0
    mean = num_tokens / num_codes
    reach = _NUM_DEVIATIONS * math.sqrt(mean) + 2 * _NUM_DEVIATIONS  # the second for means below 1
    n = np.arange(max(0, int(mean - reach)), min(num_tokens, int(mean + reach)) + 1, dtype=np.float64)
    # p(n + 1) / p(n) = (N - n) / (n + 1) / (K - 1); summed from the first n, scaled by the largest.
    log_p = np.concatenate([[0.0], np.cumsum(np.log((num_tokens - n[:-1]) / (n[:-1] + 1) / (num_codes - 1)))])
    p = np.exp(log_p - log_p.max())
    mean_n_log_n = np.sum(p * n * np.log(np.maximum(n, 1.0))) / p.sum()
    return math.exp(math.log(num_tokens) - mean_n_log_n / mean) / num_codes
