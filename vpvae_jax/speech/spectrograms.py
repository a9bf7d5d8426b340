"""Wav files and spectrograms of reconstructed recordings."""

from __future__ import annotations

import pathlib
import re
import shutil

import matplotlib.figure
import numpy as np
import scipy.io.wavfile  # type: ignore[import-untyped]

from vpvae_jax.modality import Shown, label
from vpvae_jax.speech.waveform import SAMPLE_RATE

SPECTROGRAMS = "spectrograms.png"
WAVEFORMS = "audio"  # directory of the wav files
_WINDOW, _OVERLAP = 400, 240  # samples: 25 ms every 10 ms
_FULL_SCALE = 2**15 - 1
_MAX_NAME = 60  # characters of a recording's name in a file name; systems allow 255 bytes
_RANGE_DB = 80.0  # below the loudest of the original
_TINY = 1e-6  # of a magnitude in the logarithm


def show_audio(directory: pathlib.Path, examples: list[Shown]) -> list[pathlib.Path]:
    """Write `audio/EVALUATION-NUMBER-NAME-ROW.wav` (16 bit) and draw `spectrograms.png`, a row an example.

    The directory `audio` is replaced: files of an earlier evaluation are deleted.
    """
    shutil.rmtree(directory / WAVEFORMS, ignore_errors=True)
    (directory / WAVEFORMS).mkdir()
    for number, example in enumerate(examples):
        # Names may be equal, and paths of any length: the number tells them apart.
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
    """Spectrogram, `(bins, frames)`; a recording shorter than a window is padded with zeros."""
    padded = np.pad(waveform, (0, max(0, _WINDOW - len(waveform))))
    hop = _WINDOW - _OVERLAP
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop]
    return 20 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(_WINDOW))).T + _TINY)
