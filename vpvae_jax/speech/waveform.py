"""What a waveform is: mono float32 in [-1, 1] at 16 kHz, `(samples,)`."""

from __future__ import annotations

import numpy as np

SAMPLE_RATE = 16_000  # Hz
LOUDEST = 4.0  # resampling may exceed 1; samples that exceed this are in other units, such as +-32768
_LOUD_SHARE = 0.001  # of the samples, the loudest; their mean sets the gain
_LOUD_LEVEL = 0.75


def normalize_gain(waveform: np.ndarray) -> np.ndarray:
    """Scale a training clip so that the mean of its loudest 0.1 % is 0.75; what exceeds 1 is clipped.

    Args:
        waveform: `(samples,)` float32; silence stays silence.

    Source: arXiv 2602.17133's codec in its public configuration.
    """
    num_loud = max(1, round(_LOUD_SHARE * waveform.size))
    level = np.partition(np.abs(waveform), -num_loud)[-num_loud:].mean()
    if level == 0:
        return waveform
    return np.clip(waveform * np.float32(_LOUD_LEVEL / level), -1.0, 1.0)
