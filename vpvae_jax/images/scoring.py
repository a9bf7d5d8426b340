"""Scores of reconstructed images: every entry of `metrics.METRICS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from vpvae_jax.images import metrics
from vpvae_jax.images.fid import Moments, frechet_distance, make_features

_RFID_WEIGHTS = "inception_weights"
_CONTINUOUS = "_continuous"  # ends the keys of scores without quantization


class ImageScorer:
    """Scores images by `metrics.METRICS`, with and without quantization; a `Scorer`.

    Args:
        **weights: files of the networks that metrics need, by `Metric.needs`: `lpips_weights`, `inception_weights`. A
            metric without its file is left out.

    Raises:
        ConfigError: a file that does not exist or holds something else.
    """

    def __init__(self, **weights: str):
        unknown = weights.keys() - {metric.needs for metric in metrics.METRICS}
        if unknown:
            raise TypeError(f"no metric needs {', '.join(sorted(unknown))}")
        self._functions: dict[str, Callable[..., Any]] = {}
        for metric in metrics.METRICS:
            if metric.function is not None:
                self._functions[metric.key] = metric.function
            elif metric.load is not None and weights.get(metric.needs):
                self._functions[metric.key] = metric.load(weights[metric.needs])
        self._features = make_features(weights[_RFID_WEIGHTS]) if weights.get(_RFID_WEIGHTS) else None
        self._moments = {kind: Moments() for kind in ("original", "", _CONTINUOUS)} if self._features else {}
        self._examples: list[dict[str, Any]] = []

    def __enter__(self) -> ImageScorer:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def add(self, names: list[str], original: np.ndarray, continuous: np.ndarray, quantized: np.ndarray) -> None:
        """Score a batch, uint8 `(n, h, w, 3)` each."""
        reconstructions = {"": quantized, _CONTINUOUS: continuous}
        scores = {
            key + suffix: np.asarray(function(images, original))
            for suffix, images in reconstructions.items()
            for key, function in self._functions.items()
        }
        if self._features is not None:
            for kind, images in {"original": original, **reconstructions}.items():
                self._moments[kind].add(np.asarray(self._features(jnp.asarray(images))))
        for i, name in enumerate(names):
            self._examples.append({"name": name} | {key: float(values[i]) for key, values in scores.items()})

    def results(self, gather: Callable[[Any], list[Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Means over images, rFID of all images together (None for a single one), and the scores of each image."""
        examples = [example for part in gather(self._examples) for example in part]
        keys = [key for key in examples[0] if key != "name"]
        means: dict[str, Any] = {key: float(np.mean([example[key] for example in examples])) for key in keys}
        if self._features is not None:
            moments = {kind: Moments.total(gather(own.sums())) for kind, own in self._moments.items()}
            for kind in ("", _CONTINUOUS):
                pair = moments[kind], moments["original"]
                means[f"rfid{kind}"] = frechet_distance(*pair) if pair[0].num > 1 else None
        return means, examples
