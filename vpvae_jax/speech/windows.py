"""Recordings of any length through a network that is compiled for one length: overlapping windows, in batches.

Memory is bounded and nothing is compiled again for another length: a function sees batches of `batch_size` windows, or
one window if there are no more. A window is best as long as a training crop, because the network may depend on the
length that it sees, by statistics over time and by attention. For the same reason a recording shorter than a window is
repeated, as in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """How a recording is cut into windows; lengths in tokens."""

    hop: int  # samples a token
    window: int  # what the network sees at a time
    context: int  # what it sees at least on either side of the tokens that are kept, except at the ends
    batch_size: int  # windows at a time


def encode_windows(windows: Windows, function: Callable, waveforms: np.ndarray) -> np.ndarray:
    """Latents of recordings, `(n, samples)` to `(n, ceil(samples / hop), d)`.

    Args:
        windows: how recordings are cut.
        function: `(b, window * hop)` to `(b, window, d)`.
        waveforms: float32; padded with zeros to a multiple of the hop.
    """
    waveforms = np.asarray(waveforms, np.float32)
    num_tokens = -(-waveforms.shape[1] // windows.hop)
    padded = np.pad(waveforms, ((0, 0), (0, num_tokens * windows.hop - waveforms.shape[1])))
    by_token = padded.reshape(len(padded), num_tokens, windows.hop)
    return _map(windows, lambda pieces: function(pieces.reshape(len(pieces), -1)), by_token)


def decode_windows(windows: Windows, function: Callable, latents: np.ndarray) -> np.ndarray:
    """Recordings of latents, `(n, t, d)` to `(n, t * hop)`.

    Args:
        windows: how recordings are cut.
        function: `(b, window, d)` to `(b, window * hop)`.
        latents: float32.
    """

    def by_token(pieces):
        return np.asarray(function(pieces)).reshape(len(pieces), windows.window, windows.hop)

    return _map(windows, by_token, np.asarray(latents)).reshape(len(latents), -1)


def _map(windows: Windows, function: Callable, tokens: np.ndarray) -> np.ndarray:
    """`(n, t, ...)` to `(n, t, ...)`: each token once, from the window with most context around it."""
    num, num_tokens = tokens.shape[:2]
    repeated = np.take(tokens, np.arange(max(num_tokens, windows.window)) % num_tokens, axis=1)
    kept = windows.window - 2 * windows.context
    # The first and the last window are moved inwards, into the recording, and may become one.
    wanted = np.arange(-(-num_tokens // kept)) * kept - windows.context
    starts, of_kept = np.unique(np.clip(wanted, 0, repeated.shape[1] - windows.window), return_inverse=True)
    pieces = np.stack([repeated[:, start : start + windows.window] for start in starts], axis=1)
    outputs = _in_batches(function, pieces.reshape(-1, *pieces.shape[2:]), windows.batch_size)
    outputs = outputs.reshape(num, len(starts), *outputs.shape[1:])
    position = np.arange(num_tokens)
    of_window = of_kept[position // kept]
    return outputs[:, of_window, position - starts[of_window]]


def _in_batches(function: Callable, pieces: np.ndarray, batch_size: int) -> np.ndarray:
    """The function of all pieces; the last batch is filled up, a single piece is a batch of one."""
    if len(pieces) == 1:
        return np.asarray(function(pieces))
    outputs = []
    for first in range(0, len(pieces), batch_size):
        batch = pieces[first : first + batch_size]
        filled = np.resize(batch, (batch_size, *batch.shape[1:]))
        outputs.append(np.asarray(function(filled))[: len(batch)])
    return np.concatenate(outputs)
