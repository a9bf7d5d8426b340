"""The scores of one utterance, and their means over many. Importable without jax."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vpvae_jax.speech.metrics import METRICS, UnscorableError
from vpvae_jax.speech.waveform import SAMPLE_RATE


class Scored(NamedTuple):
    """The scores of one utterance: every metric is in one of the two."""

    name: str
    scores: dict[str, float]
    failures: dict[str, str]  # the reason by metric


def score(
    original: np.ndarray, reconstructions: Mapping[str, np.ndarray], metrics: Collection[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics of every reconstruction of an utterance, in this process.

    Args:
        original: `(samples,)` float32 at 16 kHz.
        reconstructions: waveforms like it by suffix; `""` gives `stoi`, `"_continuous"` gives `stoi_continuous`.
        metrics: keys of `METRICS`.

    Returns:
        scores: by metric and suffix.
        failures: the reason by metric and suffix where the metric is not defined or memory ran out.
    """
    scores: dict[str, float] = {}
    failures: dict[str, str] = {}
    for suffix, reconstruction in reconstructions.items():
        for key, _, _, function, *_ in METRICS:
            if key not in metrics or function is None:
                continue
            try:
                scores[key + suffix] = function(reconstruction, original)
            except UnscorableError as error:
                failures[key + suffix] = str(error)
            except MemoryError as error:
                failures[key + suffix] = f"too little memory for {len(original) / SAMPLE_RATE:.0f} s ({error})"
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
    means = {metric: float(np.mean(scores_of)) if scores_of else None for metric, scores_of in values.items()}
    counts = {f"num_scored_{metric}": len(scores_of) for metric, scores_of in values.items()}
    return means | counts | {"unscored": unscored}
