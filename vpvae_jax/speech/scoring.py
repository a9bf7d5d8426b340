"""Scores of reconstructed recordings."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from vpvae_jax.speech.pool import ScoringPool
from vpvae_jax.speech.scores import Scored, summarise


class AudioScorer:
    """Scores recordings in worker processes; a `Scorer`.

    Args:
        metrics: keys of `metrics.METRICS`.
    """

    def __init__(self, metrics: Collection[str]):
        self._pool = ScoringPool(metrics)

    def __enter__(self) -> AudioScorer:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pool.__exit__(*exception)

    def add(self, names: list[str], original: np.ndarray, continuous: np.ndarray, quantized: np.ndarray) -> None:
        """Queue a batch, float32 `(n, samples)` each."""
        for i, name in enumerate(names):
            self._pool.submit(name, original[i], {"": quantized[i], "_continuous": continuous[i]})

    def results(self, gather: Callable[[Any], list[Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Means as `summarise` gives them, and the scores of each recording."""
        own = [each._asdict() for each in self._pool.results()]
        scored = [Scored(**each) for part in gather(own) for each in part]
        return summarise(scored), [{"name": each.name} | each.scores for each in scored]
