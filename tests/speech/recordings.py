"""Recorded speech for tests: the prompts that the package contains."""

import functools
import io

import numpy as np
import soundfile

from vpvae_jax.speech import prompts

NAMES = ("queue-youarenext", "ss-noservice", "tt-allbusy", "tt-weasels", "vm-nobox")  # split `test`, 3 to 9 s


@functools.cache
def recording(name: str) -> np.ndarray:
    """`(samples,)` float32 in [-1, 1] at 16 kHz."""
    (file,) = (file for file in prompts.recordings("test") if file.name == f"{name}.flac")
    waveform, sample_rate = soundfile.read(io.BytesIO(file.read_bytes()), dtype="float32")
    assert sample_rate == 16_000
    waveform.flags.writeable = False
    return waveform


def add_noise(waveform: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """White noise of a standard deviation."""
    return waveform + sigma * np.random.default_rng(seed).standard_normal(waveform.size).astype(np.float32)
