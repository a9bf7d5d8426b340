"""rFID: the Frechet distance between reconstructions and originals, in the features of Inception."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vpvae_jax.images.pixels import to_signal
from vpvae_jax.perceptual.inception import FEATURES, load_inception


class Moments:
    """Mean and covariance of features, summed in float64 batch by batch.

    Args:
        num_features: width of the features.
    """

    def __init__(self, num_features: int = FEATURES):
        self.num = 0
        self._sum = np.zeros(num_features)
        self._products = np.zeros((num_features, num_features))

    def add(self, features: np.ndarray) -> None:
        """Add features, `(n, num_features)`."""
        features = np.asarray(features, np.float64)
        self.num += len(features)
        self._sum += features.sum(axis=0)
        self._products += features.T @ features

    def sums(self) -> dict[str, Any]:
        """The sums so far, for `total` in another process."""
        return {"num": self.num, "sum": self._sum, "products": self._products}

    @classmethod
    def total(cls, parts: Sequence[dict[str, Any]]) -> Moments:
        """Moments over the sums of several processes."""
        moments = cls(len(parts[0]["sum"]))
        for part in parts:
            moments.num += part["num"]
            moments._sum += part["sum"]
            moments._products += part["products"]
        return moments

    def mean(self) -> np.ndarray:
        """The mean, `(num_features,)` float64."""
        return self._sum / self.num

    def covariance(self) -> np.ndarray:
        """The unbiased covariance, `(num_features, num_features)` float64; needs two samples."""
        mean = self.mean()
        return (self._products - self.num * np.outer(mean, mean)) / (self.num - 1)


def frechet_distance(ours: Moments, theirs: Moments) -> float:
    """Squared Frechet distance of two normal distributions, `|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`.

    The trace of the root is the sum of the roots of the eigenvalues of `C^(1/2) C' C^(1/2)`. That matrix is symmetric,
    so the result is real however numbers are rounded; a root of `C C'` may be complex.

    Raises:
        ValueError: fewer than two samples.

    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6.

    Avoid when: there are fewer samples than a few times the features. It is then biased upwards, by an amount that
    depends on the number of samples: compare only values of equally many images.
    """
    if min(ours.num, theirs.num) < 2:
        raise ValueError(f"{min(ours.num, theirs.num)} samples: expected at least two, a covariance needs them")
    covariance, other = ours.covariance(), theirs.covariance()
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ other @ root)
    trace = np.trace(covariance) + np.trace(other) - 2 * np.sqrt(np.maximum(middle, 0.0)).sum()
    difference = ours.mean() - theirs.mean()
    return float(difference @ difference + max(trace, 0.0))


def make_features(weights: str | os.PathLike[str]) -> Callable[[jax.Array], jax.Array]:
    """Inception's features as a function of images, `(n, h, w, 3)` uint8 to `(n, 2048)` float32.

    Args:
        weights: file of the weights; see `perceptual.inception.load_inception`.

    Raises:
        ConfigError: no such weights.
    """
    network, params = load_inception(weights)

    @jax.jit
    @jax.default_matmul_precision("highest")  # accelerators would round the factors of convolutions to fewer bits
    def features(params, pixels):
        return network.apply({"params": params}, to_signal(pixels))

    return functools.partial(features, params)
