"""Recordings of any length through a network that is compiled for one: windows that overlap, in batches.

Memory is bounded and nothing is compiled anew for another length. A window is best as long as a training crop: what the
network does may depend on the length that it sees, by statistics over time and by attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """How to go through a recording; lengths in tokens."""

    hop: int  # samples a token
    window: int  # what the network sees at a time
    context: int  # what it sees on either side of the tokens that are kept, where the recording reaches as far
    batch_size: int  # windows at a time


def encode_windows(windows: Windows, function: Callable, waveforms: np.ndarray) -> np.ndarray:
    """Latents of recordings, `(n, samples)` to `(n, ceil(samples / hop), d)`.

    Args:
        windows: how.
        function: `(batch_size, window * hop)` to `(batch_size, window, d)`.
        waveforms: float32; what is no multiple of the hop is filled up with zeros.
    """
    waveforms = np.asarray(waveforms, np.float32)
    num_tokens = -(-waveforms.shape[1] // windows.hop)
    starts = _starts(windows, num_tokens)
    length = max(num_tokens, windows.window) * windows.hop
    padded = np.pad(waveforms, ((0, 0), (0, length - waveforms.shape[1])))
    pieces = [padded[:, start * windows.hop : (start + windows.window) * windows.hop] for start in starts]
    return _join(windows, starts, num_tokens, _apply(windows, function, np.stack(pieces, axis=1)))


def decode_windows(windows: Windows, function: Callable, latents: np.ndarray) -> np.ndarray:
    """Recordings of latents, `(n, t, d)` to `(n, t * hop)`.

    Args:
        windows: how.
        function: `(batch_size, window, d)` to `(batch_size, window * hop)`.
        latents: float32; fewer than a window are filled up with the last one.
    """
    latents = np.asarray(latents)
    num_tokens = latents.shape[1]
    starts = _starts(windows, num_tokens)
    padded = np.pad(latents, ((0, 0), (0, max(num_tokens, windows.window) - num_tokens), (0, 0)), mode="edge")
    pieces = np.stack([padded[:, start : start + windows.window] for start in starts], axis=1)
    samples = _apply(windows, function, pieces)
    by_token = samples.reshape(*samples.shape[:2], windows.window, windows.hop)
    return _join(windows, starts, num_tokens, by_token).reshape(len(latents), -1)


def _starts(windows: Windows, num_tokens: int) -> np.ndarray:
    """First token of each window; the first and the last are moved inwards, to where the recording is."""
    kept = windows.window - 2 * windows.context
    wanted = np.arange(-(-num_tokens // kept)) * kept - windows.context
    return np.clip(wanted, 0, max(0, num_tokens - windows.window))


def _apply(windows: Windows, function: Callable, pieces: np.ndarray) -> np.ndarray:
    """The function of `(n, num_windows, ...)`, a batch of windows at a time."""
    flat = pieces.reshape(-1, *pieces.shape[2:])
    outputs = []
    for first in range(0, len(flat), windows.batch_size):
        batch = flat[first : first + windows.batch_size]
        lacking = windows.batch_size - len(batch)
        padded = np.concatenate([batch, np.zeros((lacking, *batch.shape[1:]), batch.dtype)])
        outputs.append(np.asarray(function(padded))[: len(batch)])
    joined = np.concatenate(outputs)
    return joined.reshape(*pieces.shape[:2], *joined.shape[1:])


def _join(windows: Windows, starts: np.ndarray, num_tokens: int, outputs: np.ndarray) -> np.ndarray:
    """Of `(n, num_windows, window, ...)` each token once, from the window that has most around it."""
    kept = windows.window - 2 * windows.context
    tokens = np.arange(num_tokens)
    of_window = tokens // kept
    return outputs[:, of_window, tokens - starts[of_window]]
