"""Images of any size through a network that is compiled for few sizes: padded to the next of these, or in windows.

An image up to a window's side is padded; the network is told its size, so the padding has no influence. A larger one
goes through in windows that overlap by as much as the network looks around, so that what is kept of each is what the
whole image gives. Memory is bounded by the window. Both need rounding only: sums are taken in another order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from vpvae_jax.runtime.shapes import next_size


class Windows(NamedTuple):
    """How images go through a network; lengths in tokens."""

    stride: int  # pixels of a side of a token
    side: int | None  # largest side that the network sees at a time; None if it must see whole images
    encoder_context: int  # tokens around those that are kept
    decoder_context: int


class _Span(NamedTuple):
    """A window along one side, and what is kept of it."""

    start: int
    stop: int
    first: int
    last: int
    padded: int  # length that the network sees


def encode_windows(windows: Windows, function: Callable, images: Any) -> Any:
    """Latents of images, `(n, h * stride, w * stride, 3)` to `(n, h, w, d)`.

    Args:
        windows: how they go through.
        function: of a batch, `(n, rows * stride, columns * stride, 3)`, and of the part of it that is image, `(2,)`
            int32 in tokens, to `(n, rows, columns, d)`.
        images: uint8. What is traced goes through whole, without a size.
    """
    return _map(function, images, windows.side, windows.encoder_context, windows.stride, 1)


def decode_windows(windows: Windows, function: Callable, latents: Any) -> Any:
    """Images of latents, `(n, h, w, d)` to `(n, h * stride, w * stride, 3)`; see `encode_windows`."""
    return _map(function, latents, windows.side, windows.decoder_context, 1, windows.stride)


def _map(function: Callable, inputs: Any, side: int | None, context: int, scale_in: int, scale_out: int) -> Any:
    if isinstance(inputs, jax.core.Tracer):  # inside a program of the caller, whose shapes are his
        return function(inputs)
    inputs = np.asarray(inputs)
    height, width = (length // scale_in for length in inputs.shape[1:3])
    outputs = None
    for spans in itertools.product(_spans(height, side, context), _spans(width, side, context)):
        window = inputs[:, *(_slice(span.start, span.stop, scale_in) for span in spans)]
        size = [span.stop - span.start for span in spans]
        lacking = [(0, (span.padded - length) * scale_in) for span, length in zip(spans, size, strict=True)]
        output = np.asarray(function(np.pad(window, [(0, 0), *lacking, (0, 0)]), np.array(size, np.int32)))
        if outputs is None:
            outputs = np.empty((len(inputs), height * scale_out, width * scale_out, output.shape[-1]), output.dtype)
        kept = (_slice(span.first - span.start, span.last - span.start, scale_out) for span in spans)
        outputs[:, *(_slice(span.first, span.last, scale_out) for span in spans)] = output[:, *kept]
    assert outputs is not None
    return outputs


def _spans(length: int, side: int | None, context: int) -> list[_Span]:
    """Windows along a side: one that is padded, or several of one length, which is one of few as well."""
    if side is None or length <= side:
        padded = next_size(length) if side is None else min(next_size(length), side)
        return [_Span(0, length, 0, length, padded)]
    num = -(-(length - 2 * context) // (side - 2 * context))
    shortest = -(-(length - 2 * context) // num) + 2 * context
    step = max(1, side // 8)
    side = min(side, -(-shortest // step) * step)
    spans: list[_Span] = []
    done = 0
    while done < length:
        start = max(0, min(done - context, length - side))
        stop = start + side
        last = length if stop == length else stop - context
        spans.append(_Span(start, stop, done, last, side))
        done = last
    return spans


def _slice(start: int, stop: int, scale: int) -> slice:
    return slice(start * scale, stop * scale)
