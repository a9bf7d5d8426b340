"""Typed settings: a dataclass field holds the default, the bounds, the unit and what the key affects."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

Affects = Literal["state", "length", "source", "reading", "codebook", "metrics", "nothing"]


class Bound(NamedTuple):
    """An interval of numbers."""

    words: str  # of an error: expected WORDS
    low: float = -math.inf
    high: float = math.inf  # not in the interval
    is_low_in: bool = True

    def holds(self, value: float) -> bool:
        """Whether a value is in the interval."""
        return (self.low <= value if self.is_low_in else self.low < value) and value < self.high


POSITIVE = Bound("a positive number", 0, is_low_in=False)
NOT_NEGATIVE = Bound("0 or more", 0)
DECAY = Bound("a decay in [0, 1)", 0, 1)


class Setting(NamedTuple):
    """What is known of a key besides its type and default."""

    doc: str
    bound: Bound | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    source: str = ""  # of the default
    affects: Affects = "state"


def setting(default: Any, doc: str, **about: Any) -> Any:
    """A field of a settings dataclass.

    Args:
        default: its default value.
        doc: what it means, one sentence.
        **about: see `Setting`. `affects` is "state" (what is trained), "length" (how long), "source" (which examples
            are read, to train and to evaluate), "reading" (how they are read), "codebook" (only its fit), "metrics"
            (only evaluations) or "nothing" (speed, logging, where files are): resuming, evaluating and comparing
            derive from it which keys may differ.
    """
    return dataclasses.field(default=default, metadata={"setting": Setting(doc, **about)})


def nearest(word: str, known: Iterable[str]) -> str:
    """`: did you mean NEAREST?` as the end of a message; the known words where none is near."""
    words = list(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else f": expected one of {', '.join(words)}"
