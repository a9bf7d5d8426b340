"""Scores and pictures of reconstructed images."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from vpvae_jax import metrics
from vpvae_jax.scoring.base import Shown, label

MAX_DB = 100.0  # an image without any error counts as this PSNR, so that means stay finite
RECONSTRUCTIONS = "reconstructions.png"
_METRICS: dict[str, Callable[..., Any]] = {"psnr_db": metrics.psnr, "ssim": metrics.ssim}


class ImageScorer:
    """PSNR (at most `MAX_DB`) and SSIM of each image, LPIPS and rFID where there are weights for them; a `Scorer`."""

    def __init__(self, lpips_weights: str = "", inception_weights: str = ""):
        """Load what networks need.

        Args:
            lpips_weights: file for `load_lpips`; empty for no LPIPS.
            inception_weights: file for `load_inception`; empty for no rFID.

        Raises:
            ConfigError: not such a file.
        """
        self._metrics = dict(_METRICS)
        if lpips_weights:
            self._metrics["lpips"] = metrics.make_lpips(lpips_weights)
        self._features = metrics.make_features(inception_weights) if inception_weights else None
        self._moments = {kind: metrics.Moments() for kind in ("original", "", "_continuous")} if self._features else {}
        self._examples: list[dict[str, Any]] = []

    def __enter__(self) -> ImageScorer:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def add(self, names: list[str], original: np.ndarray, continuous: np.ndarray, quantized: np.ndarray) -> None:
        """Score a batch, uint8 `(n, h, w, 3)` each."""
        reconstructions = {"": quantized, "_continuous": continuous}
        scores = {
            key + suffix: np.asarray(metric(jnp.asarray(images), jnp.asarray(original)))
            for suffix, images in reconstructions.items()
            for key, metric in self._metrics.items()
        }
        if self._features is not None:
            for kind, images in {"original": original, **reconstructions}.items():
                self._moments[kind].add(np.asarray(self._features(jnp.asarray(images))))
        for i, name in enumerate(names):
            each = {key: min(float(values[i]), MAX_DB) for key, values in scores.items()}
            self._examples.append({"name": name} | each)

    def results(self, gather: Callable[[Any], list[Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Means over images and, of all together, rFID (None of a single one); and the scores of each."""
        examples = [example for part in gather(self._examples) for example in part]
        keys = [key for key in examples[0] if key != "name"]
        means: dict[str, Any] = {key: float(np.mean([example[key] for example in examples])) for key in keys}
        if self._features is not None:
            moments = {kind: metrics.Moments.total(gather(m.sums())) for kind, m in self._moments.items()}
            for kind in ("", "_continuous"):
                pair = moments[kind], moments["original"]
                means[f"rfid{kind}"] = metrics.frechet_distance(*pair) if pair[0].num > 1 else None
        return means, examples


def show_images(directory: pathlib.Path, examples: list[Shown]) -> list[pathlib.Path]:
    """Draw `reconstructions.png`, a column an image."""
    rows = tuple(examples[0].arrays)
    figure = matplotlib.figure.Figure(figsize=(2.4 * len(examples) + 0.6, 8.0), layout="constrained")
    axes = figure.subplots(len(rows), len(examples), squeeze=False)
    for j, example in enumerate(examples):
        axes[0, j].set_title(label(f"{example.evaluation}\n{example.name}"), fontsize=9)
        for i, row in enumerate(rows):
            axes[i, j].imshow(example.arrays[row], interpolation="nearest")
            axes[i, j].set(xticks=[], yticks=[])
    for i, row in enumerate(rows):
        axes[i, 0].set_ylabel(row, fontsize=12)
    figure.savefig(directory / RECONSTRUCTIONS, dpi=110)
    return [directory / RECONSTRUCTIONS]
