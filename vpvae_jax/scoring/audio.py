"""Scores, wav files and spectrograms of reconstructed recordings."""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import matplotlib.figure
import numpy as np
import scipy.io.wavfile  # type: ignore[import-untyped]

from vpvae_jax.scoring.base import Shown, label
from vpvae_jax.scoring.pool import ScoringPool
from vpvae_jax.scoring.scores import Scored, summarise
from vpvae_jax.waveform import SAMPLE_RATE

SPECTROGRAMS = "spectrograms.png"
WAVEFORMS = "audio"  # directory of the wav files
_WINDOW, _OVERLAP = 400, 240  # samples: 25 ms every 10 ms
_FULL_SCALE = 2**15 - 1
_MAX_NAME = 60  # characters of a name in that of a file, of which systems take 255 bytes
_RANGE_DB = 80.0  # below the loudest of the original


class AudioScorer:
    """Every audio metric of each recording, in worker processes; a `Scorer`."""

    def __init__(self) -> None:
        self._pool = ScoringPool()

    def __enter__(self) -> AudioScorer:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pool.__exit__(*exception)

    def add(self, names: list[str], original: np.ndarray, continuous: np.ndarray, quantized: np.ndarray) -> None:
        """Queue a batch, float32 `(n, samples)` each."""
        for i, name in enumerate(names):
            self._pool.submit(name, original[i], {"": quantized[i], "_continuous": continuous[i]})

    def results(self, gather: Callable[[Any], list[Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Means as `summarise` gives them, and the scores of each."""
        own = [each._asdict() for each in self._pool.results()]
        scored = [Scored(**each) for part in gather(own) for each in part]
        return summarise(scored), [{"name": each.name} | each.scores for each in scored]


def show_audio(directory: pathlib.Path, examples: list[Shown]) -> list[pathlib.Path]:
    """Write `audio/EVALUATION-NUMBER-NAME-ROW.wav` (16 bit) and draw `spectrograms.png`, a row an example.

    The directory `audio` is ours: what an earlier evaluation left there goes.
    """
    shutil.rmtree(directory / WAVEFORMS, ignore_errors=True)
    (directory / WAVEFORMS).mkdir()
    for number, example in enumerate(examples):
        # Names may be paths of any length, and equal: the number tells them apart.
        name = re.sub(r"[^\w.-]+", "_", example.name)[-_MAX_NAME:]
        stem = f"{example.evaluation}-{number}-{name}"
        for row, waveform in example.arrays.items():
            samples = np.round(np.clip(waveform, -1.0, 1.0) * _FULL_SCALE).astype(np.int16)
            scipy.io.wavfile.write(directory / WAVEFORMS / f"{stem}-{row}.wav", SAMPLE_RATE, samples)
    rows = tuple(examples[0].arrays)
    figure = matplotlib.figure.Figure(figsize=(4.6 * len(rows), 2.4 * len(examples) + 0.4), layout="constrained")
    axes = figure.subplots(len(examples), len(rows), squeeze=False)
    for i, example in enumerate(examples):
        loudest = _decibels(example.arrays[rows[0]]).max()
        seconds = len(example.arrays[rows[0]]) / SAMPLE_RATE
        for j, row in enumerate(rows):
            axes[i, j].imshow(
                _decibels(example.arrays[row]),
                origin="lower",
                aspect="auto",
                extent=(0, seconds, 0, SAMPLE_RATE / 2000),
                vmin=loudest - _RANGE_DB,
                vmax=loudest,
                cmap="magma",
            )
            axes[i, j].set_title(label(f"{example.evaluation} {example.name}: {row}"), fontsize=9)
        axes[i, 0].set_ylabel("kHz")
    for ax in axes[-1]:
        ax.set_xlabel("s")
    figure.savefig(directory / SPECTROGRAMS, dpi=90)
    return [directory / SPECTROGRAMS, directory / WAVEFORMS]


def _decibels(waveform: np.ndarray) -> np.ndarray:
    """Spectrogram, `(bins, frames)`; a recording shorter than a window is followed by zeros."""
    padded = np.pad(waveform, (0, max(0, _WINDOW - len(waveform))))
    hop = _WINDOW - _OVERLAP
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop]
    return 20 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(_WINDOW))).T + 1e-6)
