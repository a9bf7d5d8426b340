from pathlib import Path

import numpy as np
import pytest

from vpvae_jax.perceptual.mel import mel_filters

CASES = [(16_000, 400, 80), (16_000, 1024, 128), (24_000, 512, 40)]


def test_equal_to_the_filters_of_whisper():
    with np.load(Path(__file__).parents[1] / "golden" / "whisper.npz", allow_pickle=False) as golden:
        expected = golden["mel_filters"]
    filters = mel_filters(16_000, 400, 80)
    assert filters.dtype == np.float32
    np.testing.assert_allclose(filters, expected, atol=1e-7)


@pytest.mark.filterwarnings("ignore")  # of what transformers imports
@pytest.mark.parametrize("case", CASES)
def test_equal_to_transformers(case):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    sample_rate, num_fft, num_mels = case
    expected = audio_utils.mel_filter_bank(
        num_fft // 2 + 1, num_mels, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
    )
    np.testing.assert_allclose(mel_filters(*case), expected, atol=1e-7)


def test_bands_by_hand():
    """Below 1 kHz a mel is 200 / 3 Hz, so edges are multiples of one step in Hz; 2 kHz is ln 2 above the break."""
    step = (15 + 27 * np.log(2) / np.log(6.4)) / 30 * 200 / 3  # 29 bands have 31 edges
    filters = mel_filters(4_000, 4_000, 29)  # bins of 1 Hz
    assert abs(int(filters[:, 2].argmax()) - 3 * step) <= 1
    support = np.flatnonzero(filters[:, 0])
    assert (support[0], support[-1]) == (1, int(2 * step))
    np.testing.assert_allclose(filters[int(step), 0], int(step) / step / step, rtol=1e-5)  # rises to 1 / step


def test_every_band_has_an_area_of_one():
    np.testing.assert_allclose(mel_filters(16_000, 16_000, 80).sum(axis=0), 1.0, atol=1e-3)  # bins of 1 Hz
