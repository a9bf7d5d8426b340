import sys

import numpy as np
import pesq
import pystoi
import pytest
import scipy.signal

from tests.speech.recordings import NAMES, add_noise, recording
from vpvae_jax.perceptual.mel import mel_filters
from vpvae_jax.runtime.errors import UserError
from vpvae_jax.speech import metrics
from vpvae_jax.speech.metrics import UnscorableError, log_mel_distance, pesq_wb, si_sdr, stoi
from vpvae_jax.speech.scores import score

METRICS = {metric.key: metric.function for metric in metrics.METRICS}
PERFECT = {"pesq_wb": 4.64388, "stoi": 1.0, "si_sdr_db": metrics.MAX_DB, "log_mel_distance": 0.0}
HIGHER_IS_BETTER = {"pesq_wb": True, "stoi": True, "si_sdr_db": True, "log_mel_distance": False}


def tone_bursts(num_bursts, on=0.25, off=0.25):
    """Beeps of 500 Hz with digital silence between them."""
    beep = 0.3 * np.sin(2 * np.pi * 500 * np.arange(int(16_000 * on)) / 16_000)
    return np.tile(np.append(beep, np.zeros(int(16_000 * off))), num_bursts).astype(np.float32)


@pytest.fixture(params=NAMES)
def speech(request):
    return recording(request.param)


@pytest.mark.parametrize("name", METRICS)
class TestOnSpeech:
    def test_perfect_reconstruction(self, speech, name):
        assert METRICS[name](speech.copy(), speech) == pytest.approx(PERFECT[name], abs=1e-5)

    def test_more_noise_is_worse(self, name):
        speech = recording("ss-noservice")
        scores = [METRICS[name](add_noise(speech, sigma), speech) for sigma in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)]
        steps = np.diff(scores) * (-1 if HIGHER_IS_BETTER[name] else 1)
        assert (steps > 0).all(), scores

    def test_inputs_stay_as_they_are(self, name):
        speech = recording("tt-weasels")
        original, noisy = speech.copy(), add_noise(speech, 0.01)
        kept = noisy.copy()
        assert isinstance(METRICS[name](noisy, original), float)
        np.testing.assert_array_equal(original, speech)
        np.testing.assert_array_equal(noisy, kept)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (pesq_wb, lambda ref, deg: pesq.pesq(16_000, ref, deg, "wb")),
        (stoi, lambda ref, deg: pystoi.stoi(ref.astype(float), deg.astype(float), 16_000, extended=False)),
    ],
)
def test_the_original_is_the_reference(metric, expected):
    speech = recording("vm-nobox")
    muffled = np.convolve(add_noise(speech, 0.03), np.full(9, 1 / 9, np.float32), "same")
    assert metric(muffled, speech) == pytest.approx(expected(speech, muffled), abs=1e-6)
    assert abs(expected(speech, muffled) - expected(muffled, speech)) > 1e-3  # the order can be told apart


class TestSiSdr:
    def test_by_hand(self):
        # The error is orthogonal and has a hundredth of the energy: 20 dB.
        original = np.tile(np.float32([1, -1, 1, -1]), 100) / 2
        error = np.tile(np.float32([1, 1, -1, -1]), 100) / 20
        assert si_sdr(original + error, original) == pytest.approx(20.0, abs=1e-4)

    @pytest.mark.parametrize(("scale", "offset"), [(0.01, 0.0), (-3.0, 0.0), (1.0, 0.2), (0.5, -0.1)])
    def test_scale_and_mean_do_not_matter(self, scale, offset):
        speech = recording("tt-weasels")
        noisy = add_noise(speech, 0.01)
        expected = si_sdr(noisy, speech)
        assert 20 < expected < 30
        assert si_sdr(np.float32(scale) * noisy + np.float32(offset), speech) == pytest.approx(expected, abs=1e-3)

    def test_nothing_in_common_ends_at_the_bound(self):
        original = np.tile(np.float32([1, -1, 1, -1]), 100)
        assert si_sdr(np.tile(np.float32([1, 1, -1, -1]), 100), original) == -metrics.MAX_DB


class TestLogMelDistance:
    def test_half_the_amplitude_is_a_quarter_of_the_power(self):
        noise = add_noise(np.zeros(16_000, np.float32), 0.1)
        assert log_mel_distance(noise / 2, noise) == pytest.approx(np.log10(4), abs=1e-5)

    def test_against_scipy(self):
        speech = recording("ss-noservice")
        noisy = add_noise(speech, 0.01)

        def log_mel(waveform):
            _, _, spectrum = scipy.signal.stft(waveform, 1.0, "hann", 400, 240, boundary=None, padded=False)
            return np.log10(np.maximum(np.abs(spectrum.T * 200.0) ** 2 @ mel_filters(16_000, 400, 80), 1e-10))

        expected = np.abs(log_mel(noisy) - log_mel(speech)).mean()
        assert log_mel_distance(noisy, speech) == pytest.approx(expected, rel=1e-5)


SPEECH = recording("tt-weasels")
SILENT = np.zeros_like(SPEECH)


def with_sample(value):
    waveform = SPEECH.copy()
    waveform[1000] = value
    return waveform


UNSCORABLE = {
    "silent original": (SPEECH, SILENT, "original is silent"),
    "constant original": (SPEECH, SILENT + 0.5, "original is silent"),
    "both silent": (SILENT, SILENT, "original is silent"),
    "nan in the reconstruction": (with_sample(np.nan), SPEECH, "reconstruction has samples that are not finite"),
    "infinity in the original": (SPEECH, with_sample(np.inf), "original has samples that are not finite"),
    "cut short": (SPEECH[:-1], SPEECH, "46431 samples reconstruct 46432"),
    "empty": (SPEECH[:0], SPEECH[:0], "empty"),
    "one sample": (SPEECH[:1], SPEECH[:1], "silent"),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("case", UNSCORABLE)
def test_unscorable_by_every_metric(name, case):
    reconstruction, original, reason = UNSCORABLE[case]
    with pytest.raises(UnscorableError, match=reason):
        METRICS[name](reconstruction, original)


@pytest.mark.parametrize("metric", [pesq_wb, si_sdr])
@pytest.mark.parametrize("reconstruction", [SILENT, SILENT + 0.25, SPEECH * np.float32(1e-30)])
def test_a_silent_reconstruction_is_unscorable(metric, reconstruction):
    with pytest.raises(UnscorableError, match="reconstruction is silent"):
        metric(reconstruction, SPEECH)


def test_a_silent_reconstruction_is_unintelligible_and_far():
    assert stoi(SILENT, SPEECH) == 0.0
    assert log_mel_distance(SILENT, SPEECH) > 3


@pytest.mark.parametrize(
    ("metric", "num_samples", "reason"),
    [
        (pesq_wb, 3999, "1/4 of a second"),
        (stoi, 3999, "shorter than the 30 frames"),
        (stoi, 6400, "fewer than the 30 frames of STOI are speech"),
        (log_mel_distance, 399, "shorter than a frame of 400"),
    ],
)
def test_too_short(metric, num_samples, reason):
    piece = SPEECH[12_000 : 12_000 + num_samples]
    with pytest.raises(UnscorableError, match=reason):
        metric(add_noise(piece, 0.001), piece)


def test_stoi_of_what_is_no_speech_is_far_from_zero():
    """A score near a half says nothing; what the documentation states of it must stay true."""
    assert 0.3 < stoi(np.full_like(SPEECH, 0.01), SPEECH) < 0.6


def test_pauses_do_not_count_for_stoi():
    """The signal is long enough, its speech is not."""
    burst = np.concatenate([SPEECH[12_000:16_000], np.zeros(32_000, np.float32)])
    with pytest.raises(UnscorableError, match="are speech"):
        stoi(burst, burst)


@pytest.mark.parametrize(
    "distort", [lambda x: np.clip(100 * x, -1, 1), lambda x: x[::-1], lambda x: np.roll(x, 16_000)]
)
def test_a_bad_reconstruction_has_a_bad_score(distort):
    scores = {name: metric(distort(SPEECH), SPEECH) for name, metric in METRICS.items()}
    assert scores["pesq_wb"] < 3
    assert scores["stoi"] < 0.8
    assert scores["si_sdr_db"] < 5


class TestPesqLimits:
    """The package writes past its arrays: 52 bursts give a wrong score, 60 end the process."""

    def test_what_it_holds_is_scored(self):
        bursts = tone_bursts(40)
        assert pesq_wb(add_noise(bursts, 0.003), bursts) == pytest.approx(
            pesq.pesq(16_000, bursts, add_noise(bursts, 0.003), "wb")
        )

    @pytest.mark.parametrize("level", [0.0, 1e-4, 3e-3])
    @pytest.mark.parametrize("num_bursts", [41, 60, 130])
    def test_more_bursts_than_it_holds(self, num_bursts, level):
        bursts = add_noise(tone_bursts(num_bursts), level, seed=1)
        with pytest.raises(UnscorableError, match=f"{num_bursts} bursts of speech, PESQ's reference code holds 50"):
            pesq_wb(add_noise(bursts, 0.003), bursts)

    @pytest.mark.parametrize("hum", [0.05, 0.5])
    def test_hum_does_not_hide_bursts(self, hum):
        bursts = tone_bursts(60) + np.float32(hum) * np.sin(2 * np.pi * 50 * np.arange(480_000) / 16_000, dtype="f")
        with pytest.raises(UnscorableError, match="60 bursts"):
            pesq_wb(bursts, bursts)

    def test_longer_than_it_holds(self):
        long = np.tile(SPEECH, 34)
        with pytest.raises(UnscorableError, match="holds less than 96 s"):
            pesq_wb(long, long)

    def test_half_a_minute_of_speech_is_scored(self):
        speech = np.concatenate([recording(name) for name in NAMES] + [SPEECH])
        assert 29 < speech.size / 16_000 < 30
        assert 1.1 < pesq_wb(add_noise(speech, 0.01), speech) < 2.0


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match="utterances one by one"):
        si_sdr(SPEECH[None], SPEECH[None])


@pytest.mark.parametrize(("package", "name", "extra"), [("pesq", "pesq_wb", "pesq"), ("pystoi", "stoi", "audio")])
def test_a_missing_package_is_named_with_both_remedies(monkeypatch, package, name, extra):
    monkeypatch.setitem(sys.modules, package, None)
    others = [other for other in METRICS if other != name]
    for use in (lambda: metrics.require_packages(METRICS), lambda: METRICS[name](SPEECH, SPEECH)):
        with pytest.raises(UserError, match=rf"{package} is missing.*pip install 'vpvae_jax\[{extra}\]'") as raised:
            use()
        assert str(raised.value).endswith(f'--config.eval.metrics="{tuple(others)}"')
    metrics.require_packages(others)
    scores, failures = score(SPEECH, {"": SPEECH}, others)
    assert set(scores) == set(others)
    assert not failures
