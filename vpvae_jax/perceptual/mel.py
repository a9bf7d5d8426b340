"""The mel scale: triangular filters over the bins of a Fourier transform."""

from __future__ import annotations

import math

import numpy as np

# Slaney's auditory toolbox (1998): linear up to 1 kHz, then 27 steps to each factor of 6.4.
_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def mel_filters(sample_rate: int, num_fft: int, num_mels: int) -> np.ndarray:
    """Weights of mel bands, evenly spaced in mel from 0 to half the sample rate, each with an area of one.

    Args:
        sample_rate: in Hz.
        num_fft: length of the transform in samples.
        num_mels: number of bands.

    Returns:
        `(num_fft // 2 + 1, num_mels)` float32; `power_spectrum @ mel_filters(...)` is a mel spectrum.

    Source: Slaney 1998, the scale and the normalisation that Whisper and librosa use.
    """
    edges = _to_hz(np.linspace(0.0, _to_mel(sample_rate / 2), num_mels + 2))
    bins = np.linspace(0.0, sample_rate / 2, num_fft // 2 + 1)[:, None]
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - lower) / (center - lower), (upper - bins) / (upper - center)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * 2.0 / (upper - lower)).astype(np.float32)


def _to_mel(hz: float) -> float:
    return hz / _HZ_PER_MEL if hz < _BREAK_HZ else _BREAK_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


def _to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(
        mel < _BREAK_MEL, mel * _HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    )
