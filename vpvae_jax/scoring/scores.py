"""What audio metrics say of an utterance, and of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vpvae_jax.metrics import audio
from vpvae_jax.waveform import SAMPLE_RATE


class Scored(NamedTuple):
    """The scores of one utterance: every metric is in one of the two."""

    name: str
    scores: dict[str, float]
    failures: dict[str, str]  # the reason by metric


def score(original: np.ndarray, reconstructions: Mapping[str, np.ndarray]) -> tuple[dict[str, float], dict[str, str]]:
    """Every audio metric of every reconstruction of an utterance, in this process.

    Args:
        original: `(samples,)` float32 at 16 kHz.
        reconstructions: waveforms like it by suffix; `""` gives `stoi`, `"_continuous"` gives `stoi_continuous`.

    Returns:
        scores: by metric and suffix.
        failures: the reason by metric and suffix where the metric is not defined, or memory was refused.
    """
    scores: dict[str, float] = {}
    failures: dict[str, str] = {}
    for suffix, reconstruction in reconstructions.items():
        for name, metric in audio.METRICS.items():
            try:
                scores[name + suffix] = metric(reconstruction, original)
            except audio.UnscorableError as error:
                failures[name + suffix] = str(error)
            except MemoryError as error:
                failures[name + suffix] = f"too little memory for {len(original) / SAMPLE_RATE:.0f} s ({error})"
    return scores, failures


def summarise(scored: Iterable[Scored]) -> dict[str, Any]:
    """Means over the utterances that each metric could score, and a list of what could not be scored.

    Returns:
        For each metric its mean, None if no utterance was scored, and `num_scored_METRIC`; `unscored` lists
        `name`, `metric` and `reason` in the order of the utterances.
    """
    values: dict[str, list[float]] = {}
    unscored = []
    for name, scores, failures in scored:
        for metric, value in scores.items():
            values.setdefault(metric, []).append(value)
        for metric, reason in failures.items():
            values.setdefault(metric, [])
            unscored.append({"name": name, "metric": metric, "reason": reason})
    means = {metric: float(np.mean(of_all)) if of_all else None for metric, of_all in values.items()}
    counts = {f"num_scored_{metric}": len(of_all) for metric, of_all in values.items()}
    return means | counts | {"unscored": unscored}
