"""What scores and shows reconstructions of any kind of signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np


class Figure(NamedTuple):
    """How tables show a figure of merit."""

    title: str
    decimals: int
    needs: str = ""  # key of the config that must not be empty for it, the file of a network's weights


class Shown(NamedTuple):
    """An example of an evaluation for people to look at or listen to."""

    evaluation: str  # "photos-test"
    name: str
    arrays: Mapping[str, np.ndarray]  # original, continuous, quantized: in stored form


def label(text: str) -> str:
    """A name as matplotlib shows it: no formulas, nothing that cannot be encoded, no underscore that hides it."""
    plain = text.encode("utf-8", "replace").decode().replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


class Scorer(AbstractContextManager, Protocol):
    """Takes reconstructions and gives figures of merit; leaving its context ends what it has running."""

    def add(self, names: list[str], original: np.ndarray, continuous: np.ndarray, quantized: np.ndarray) -> None:
        """Score a batch, `(n, ...)` in stored form each."""

    def results(self, gather: Callable[[Any], list[Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Means over all examples, None for one that nothing could be scored by, and `name` and scores of each.

        Args:
            gather: from what this process has to what each has, such as `distributed.gather`.
        """
