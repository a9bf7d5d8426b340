"""Metrics of one utterance: mono float32 in [-1, 1] at 16 kHz, `(samples,)`, the reconstruction first.

A metric that is not defined for an utterance raises `UnscorableError`; it never returns a number that stands for
"no score". STOI needs `pip install 'vpvae_jax[audio]'`, PESQ `pip install 'vpvae_jax[pesq]'`.

Importable without jax: the processes that score do without it.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from vpvae_jax.modality import Metric
from vpvae_jax.perceptual.mel import mel_filters
from vpvae_jax.runtime.errors import UserError
from vpvae_jax.speech.waveform import SAMPLE_RATE

MAX_DB = 100.0  # SI-SDR of a reconstruction without any error, so that means stay finite
SILENCE = 2.0**-16  # half a step of 16 bits: what stays this close to its mean is silence once stored

# The log-mel spectrum of Whisper and of the perceptual loss.
LOG_MEL_FFT = 400  # samples, 25 ms
LOG_MEL_HOP = 160  # samples, 10 ms
LOG_MEL_BANDS = 80
LOG_MEL_FLOOR = 1e-10  # power of a band, below the 2.4e-10 that rounding to 16 bits leaves
_LOG_MEL_BLOCK = 4096  # frames at a time, for memory

PESQ_MAX_BURSTS = 40  # of 50; the count was at most 4 short in 240 signals made to mislead it
PESQ_MAX_SECONDS = 96.0
_PESQ_BAND = (300.0, 3000.0)  # Hz, in which its voice activity detection listens
_PESQ_FRAME = 64  # samples, 4 ms, of that detection
_PESQ_CLICK_FRAMES = 4  # sounds up to this length are not speech
_PESQ_BURST_FRAMES = 50  # an utterance lasts at least this long, and a longer pause ends it
_PESQ_TRANSITION_FRAMES = 4  # added to each detected burst, both ends together
_PESQ_LEVELS_DB = np.arange(0.5, 60.0, 0.5)  # detection levels below the loudest frame; it goes 40 dB down

_STOI_RATE = 10_000  # Hz at which STOI computes
_STOI_FRAMES, _STOI_FRAME, _STOI_HOP = 30, 256, 128  # a segment is 30 frames of 256 samples every 128


class UnscorableError(Exception):
    """A metric is not defined for an utterance; the message is the reason. A result to be listed, not a bug."""


def require_packages(names: Iterable[str]) -> None:
    """Import the packages of metrics, so that a long run fails before it starts.

    Args:
        names: keys of metrics, `eval.metrics`.

    Raises:
        UserError: a package is not installed.
    """
    for name in names:
        if name in _PACKAGES:
            _require(name)


def pesq_wb(reconstruction: np.ndarray, original: np.ndarray) -> float:
    """Wideband PESQ, a predicted mean opinion score from about 1 to 4.64 (MOS-LQO).

    The reference code keeps its utterances (bursts of speech of 200 ms, between pauses of the same length) in arrays
    of 50 and its bad intervals (at least 96 ms each) in arrays of 1000, without bounds checks: with more it returns
    wrong scores (52 bursts) and then crashes (60). Whatever may exceed them is unscorable here. Bursts are counted at
    every detection level from 0.5 to 59.5 dB below the loudest frame, and the largest count decides. It is usually
    more than PESQ finds (23 and 15 in prompts of 31 s) and was never seen to be so much less that PESQ reached 50.
    Nothing under 15 s is refused.

    Args:
        reconstruction: `(samples,)`, at least 1/4 s.
        original: the same length.

    Raises:
        UnscorableError: silence, samples that are not finite, unequal lengths, no utterance found, shorter than 1/4 s,
            `PESQ_MAX_SECONDS` or more, or more than `PESQ_MAX_BURSTS` bursts of speech.
        UserError: `pesq` is not installed.

    Source: ITU-T P.862.2, computed by the package `pesq`.
    Avoid when: signals that are not speech.
    """
    reconstruction, original = _checked(reconstruction, original)
    _check_heard(reconstruction, "reconstruction")
    seconds = original.size / SAMPLE_RATE
    if seconds >= PESQ_MAX_SECONDS:
        raise UnscorableError(f"{seconds:.1f} s, PESQ's reference code holds less than {PESQ_MAX_SECONDS:g} s")
    bursts = _most_bursts(original)
    if bursts > PESQ_MAX_BURSTS:
        raise UnscorableError(
            f"up to {bursts} bursts of speech, PESQ's reference code holds 50: limit {PESQ_MAX_BURSTS}"
        )
    package = _require("pesq_wb")
    try:
        score = float(package.pesq(SAMPLE_RATE, original, reconstruction, "wb"))
    # A level that underflows becomes a ValueError ("cannot convert float NaN to integer").
    except (package.PesqError, ValueError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise UnscorableError(f"PESQ: {reason.decode() if isinstance(reason, bytes) else reason}") from error
    if not np.isfinite(score):
        raise UnscorableError(f"PESQ: the score is {score}")
    return score


def stoi(reconstruction: np.ndarray, original: np.ndarray) -> float:
    """Short-time objective intelligibility, not extended; 1 for equal signals.

    It is not 0 for signals that have nothing in common: on the held-out prompts of the data set `speech` a constant
    reaches 0.50, white noise 0.38.

    Args:
        reconstruction: `(samples,)`.
        original: the same length, with at least 0.4 s of speech within 40 dB of its loudest frame.

    Raises:
        UnscorableError: a silent original, samples that are not finite, unequal lengths, too little speech.
        UserError: `pystoi` is not installed.

    Source: Taal et al. 2011, computed by the package `pystoi`.
    """
    reconstruction, original = _checked(reconstruction, original)
    package = _require("stoi")
    needed = _STOI_FRAME + (_STOI_FRAMES - 1) * _STOI_HOP
    if original.size * _STOI_RATE < needed * SAMPLE_RATE:
        raise UnscorableError(f"{original.size} samples are shorter than the {_STOI_FRAMES} frames of STOI")
    with warnings.catch_warnings():
        # It warns and returns 1e-5 where what is left after removing silent frames is too short.
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            score = float(package.stoi(original.astype(np.float64), reconstruction.astype(np.float64), SAMPLE_RATE))
        except RuntimeWarning as warning:
            raise UnscorableError(f"fewer than the {_STOI_FRAMES} frames of STOI are speech") from warning
    if not np.isfinite(score):
        raise UnscorableError(f"STOI: the score is {score}")
    return score


def si_sdr(reconstruction: np.ndarray, original: np.ndarray) -> float:
    """Scale-invariant signal to distortion ratio in dB, within +-`MAX_DB`; means are removed first.

    `10 log10(|a s|^2 / |s_hat - a s|^2)` with `a = <s_hat, s> / |s|^2`.

    Args:
        reconstruction: `s_hat`, `(samples,)`.
        original: `s`, the same length.

    Raises:
        UnscorableError: either is silent, samples that are not finite, unequal lengths.

    Source: Le Roux et al. 2019, equation 3.
    """
    reconstruction, original = _checked(reconstruction, original)
    _check_heard(reconstruction, "reconstruction")
    s_hat, s = (waveform - waveform.mean(dtype=np.float64) for waveform in (reconstruction, original))
    target = np.dot(s_hat, s) / np.dot(s, s) * s
    distortion = s_hat - target
    with np.errstate(divide="ignore"):  # a ratio of 0 or infinity is meant: it ends at the bounds
        decibels = 10.0 * (np.log10(np.dot(target, target)) - np.log10(np.dot(distortion, distortion)))
    return float(np.clip(decibels, -MAX_DB, MAX_DB))


def log_mel_distance(reconstruction: np.ndarray, original: np.ndarray) -> float:
    """Mean absolute difference of log10 mel power spectra (in bels: 1 is 10 dB); 0 for equal signals.

    Periodic Hann window and transform of 400 samples (25 ms), hop 160 (10 ms), frames that lie wholly inside, 80 bands
    from 0 to 8 kHz (Slaney), power floored at 1e-10.

    Args:
        reconstruction: `(samples,)`, at least one frame.
        original: the same length.

    Raises:
        UnscorableError: a silent original, samples that are not finite, unequal lengths, shorter than a frame.
    """
    pair = _checked(reconstruction, original)
    if pair[0].size < LOG_MEL_FFT:
        raise UnscorableError(f"{pair[0].size} samples are shorter than a frame of {LOG_MEL_FFT}")
    reconstructed, target = (_log_mel(waveform) for waveform in pair)
    return float(np.mean(np.abs(reconstructed - target)))


METRICS = (
    Metric("stoi", "STOI", 3, stoi, continuous="continuous"),
    Metric("pesq_wb", "PESQ", 2, pesq_wb),
    Metric("si_sdr_db", "SI-SDR dB", 1, si_sdr),
    Metric("log_mel_distance", "log-mel distance", 3, log_mel_distance),
)
"""Every metric of an utterance."""

_PACKAGES = {"stoi": ("pystoi", "audio"), "pesq_wb": ("pesq", "pesq")}  # by metric: package and our extra with it


def _log_mel(waveform: np.ndarray) -> np.ndarray:
    """`(frames, bands)`."""
    window = np.hanning(LOG_MEL_FFT + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(waveform, LOG_MEL_FFT)[::LOG_MEL_HOP]
    bands = []
    for first in range(0, len(frames), _LOG_MEL_BLOCK):
        power = np.abs(np.fft.rfft(frames[first : first + _LOG_MEL_BLOCK] * window)) ** 2
        bands.append(np.log10(np.maximum(power @ _filters(), LOG_MEL_FLOOR)))
    return np.concatenate(bands)


@functools.cache
def _filters() -> np.ndarray:
    return mel_filters(SAMPLE_RATE, LOG_MEL_FFT, LOG_MEL_BANDS)


def _most_bursts(waveform: np.ndarray) -> int:
    """The largest number of bursts of speech that any detection level finds; 0 for less than a frame."""
    import scipy.signal  # type: ignore[import-untyped]

    num_frames = waveform.size // _PESQ_FRAME
    band = scipy.signal.butter(2, _PESQ_BAND, "bandpass", fs=SAMPLE_RATE, output="sos")
    heard = scipy.signal.sosfilt(band, waveform)[: num_frames * _PESQ_FRAME]
    power = np.square(heard).reshape(num_frames, _PESQ_FRAME).mean(axis=1)
    return max(_bursts(power > power.max(initial=0.0) * 10.0 ** (-level / 10)) for level in _PESQ_LEVELS_DB)


def _bursts(loud: np.ndarray) -> int:
    """Number of bursts in `(frames,)` bool after clicks are dropped and short pauses bridged."""
    changes = np.diff(loud.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)
    speech = ends - starts > _PESQ_CLICK_FRAMES
    starts, ends = starts[speech], ends[speech]
    pauses = np.flatnonzero(starts[1:] - ends[:-1] > _PESQ_BURST_FRAMES)
    starts, ends = np.append(starts[:1], starts[pauses + 1]), np.append(ends[pauses], ends[-1:])
    return int(np.sum(ends - starts + _PESQ_TRANSITION_FRAMES >= _PESQ_BURST_FRAMES))


def _checked(reconstruction: np.ndarray, original: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reconstruction, original = (np.asarray(waveform, np.float32) for waveform in (reconstruction, original))
    for name, waveform in (("reconstruction", reconstruction), ("original", original)):
        if waveform.ndim != 1:
            raise ValueError(f"{name} has shape {waveform.shape}: expected (samples,), score utterances one by one")
        if not np.isfinite(waveform).all():
            raise UnscorableError(f"the {name} has samples that are not finite")
    if reconstruction.size != original.size:
        raise UnscorableError(f"{reconstruction.size} samples reconstruct {original.size}: expected equal lengths")
    _check_heard(original, "original")
    return reconstruction, original


def _check_heard(waveform: np.ndarray, name: str) -> None:
    if waveform.size == 0:
        raise UnscorableError(f"the {name} is empty")
    if np.abs(waveform - waveform.mean(dtype=np.float64)).max() <= SILENCE:
        raise UnscorableError(f"the {name} is silent")


def _require(name: str) -> Any:
    package, extra = _PACKAGES[name]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        others = tuple(metric.key for metric in METRICS if metric.key != name)
        raise UserError(
            f"the package {package} is missing, the metric {name} needs it: pip install 'vpvae_jax[{extra}]', or score "
            f'without it, --config.eval.metrics="{others}"'
        ) from error
