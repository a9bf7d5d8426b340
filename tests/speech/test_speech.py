"""Speech as a modality, without a quantizer and a run; tests/test_main_speech.py has both."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests.golden import make_whisper
from tests.speech import tiny_speech
from vpvae_jax.config import keys
from vpvae_jax.perceptual.whisper import load_whisper, log_mel
from vpvae_jax.runtime.errors import ConfigError, DataError, UserError
from vpvae_jax.speech import losses
from vpvae_jax.speech.settings import SpeechData, SpeechEval, SpeechLoss, SQCodec

HOP = 96


class Codec:
    """An untrained network that encodes and decodes recordings of any length."""

    def __init__(self):
        self.speech = tiny_speech.speech()
        self._network = self.speech.network(3, 3)
        shapes = jax.eval_shape(self._network.init, jax.random.key(0), jnp.zeros((1, tiny_speech.CROP)))
        rng = np.random.default_rng(0)  # to initialize it would be another program to compile
        self._params = jax.tree.map(lambda leaf: rng.uniform(0.05, 0.2, leaf.shape).astype(leaf.dtype), shapes)
        self.shapes = set()
        self._encode, self._decode = (jax.jit(self._apply, static_argnums=0) for _ in range(2))

    def _apply(self, method, x):
        self.shapes.add((method, x.shape))  # while it is traced
        return self._network.apply(self._params, x, method=method)

    def encode(self, waveforms):
        return self.speech.encode(lambda x: self._encode("encode", x), waveforms)

    def decode(self, latents):
        return self.speech.decode(lambda z: self._decode("decode", z), latents)


@pytest.fixture(scope="module")
def codec():
    return Codec()


def crops(**changed):
    return {"data.crop": tiny_speech.CROP, "data.eval_crop": 0, "codebook.crop": tiny_speech.CROP} | changed


@pytest.mark.parametrize("samples", [1, 96, 97, 3000])
def test_recordings_of_any_length_become_latents_and_recordings(codec, samples):
    waveforms = np.random.default_rng(0).normal(size=(2, samples)).astype(np.float32) * 0.1
    z = codec.encode(waveforms)
    assert z.shape == (2, -(-samples // HOP), 3)
    decoded = codec.decode(z)
    assert decoded.shape == (2, HOP * z.shape[1])
    assert np.isfinite(decoded).all()


def test_the_start_does_not_depend_on_what_follows_much_later(codec):
    """The decoder normalizes over all that it sees: without windows every sample would change."""
    z = np.random.default_rng(0).normal(size=(1, 200, 3)).astype(np.float32)
    changed = z.copy()
    changed[:, 100:] = 0
    ours, theirs = codec.decode(z), codec.decode(changed)
    np.testing.assert_array_equal(ours[:, : 80 * HOP], theirs[:, : 80 * HOP])
    assert (ours[:, 90 * HOP : 95 * HOP] != theirs[:, 90 * HOP : 95 * HOP]).any()


@pytest.mark.system
def test_two_shapes_serve_all_lengths(codec):
    for samples in (100, 20_000, 20_096, 31_000):
        codec.decode(codec.encode(np.full((1, samples), 0.1, np.float32)))
    batch = codec.speech.evaluation.batch_size
    tokens = tiny_speech.CROP // HOP
    expected = {("encode", (n, tiny_speech.CROP)) for n in (1, batch)} | {
        ("decode", (n, tokens, 3)) for n in (1, batch)
    }
    assert codec.shapes == expected


def test_what_is_not_a_batch_of_waveforms_is_refused(codec):
    wrong = np.zeros((1, 100), np.int16), np.zeros(100, np.float32), np.zeros((1, 0), np.float32)
    for examples in wrong:
        with pytest.raises(DataError, match="expected float32"):
            codec.speech.check_examples(examples)
    for sample in (np.nan, np.inf, 3000.0):
        with pytest.raises(DataError, match=r"waveforms reach .*: expected samples in \[-1, 1\]"):
            codec.speech.check_examples(np.array([[0.1, sample]]))
    codec.speech.check_examples(np.array([[0.1, -1.1]]))


def test_tokens_and_rate_are_those_of_the_hop(codec):
    assert codec.speech.stride == HOP
    assert codec.speech.tokens(115_200) == 1200
    assert codec.speech.rate(16) == pytest.approx(16_000 / HOP * 4)
    assert codec.speech.batch_shape(2, 480).shape == (2, 480)


def test_tiny_settings_work():
    tiny_speech.speech().check(crops())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.crop": 480}, "at least 513 samples"),
        ({"model.context": 960}, "leaves nothing"),
        ({"model.window": 1000}, "model.window=1000: expected a multiple of the network's hop 96"),
        ({"model.encoder_widths": (4, 0, 8, 8)}, "expected positive whole numbers"),
        ({"model.decoder_rates": (4, 4, 3, 1)}, "expected 96"),
        ({"model.encoder_depths": (1, 1)}, "expected 3 strides and 4 depths"),
        ({"model.feature_dim": 18}, "expected a multiple of 4"),
        ({"loss.whisper_weight": 1.0, "loss.whisper_weights": ""}, "loss.whisper_weights is empty"),
        ({"data.sample_rate": 8000}, "files state theirs"),
        ({"eval.metrics": ()}, "eval.metrics is empty"),
        ({"eval.metrics": ("stoi", "pesq")}, "no metric 'pesq': did you mean pesq_wb"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        tiny_speech.speech(overrides).check(crops())


@pytest.mark.parametrize("key", ["data.crop", "codebook.crop"])
def test_crops_are_multiples_of_the_hop(key):
    with pytest.raises(ConfigError, match=f"{key}=1000: expected a multiple of the network's hop 96"):
        tiny_speech.speech().check(crops(**{key: 1000}))


@pytest.mark.parametrize("section", [SpeechData, SQCodec, SpeechLoss, SpeechEval])
def test_defaults_are_within_their_bounds(section):
    keys.check(section())


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (SpeechData, "sample_rate", 0, "a positive number of Hz"),
        (SQCodec, "init_std", -0.1, "0 or more"),
        (SQCodec, "num_heads", 0, "a positive number"),
        (SQCodec, "name", "vqgan", "sqcodec"),
        (SpeechLoss, "whisper_weight", -1.0, "0 or more"),
        (SpeechLoss, "stft_floor", 0.0, "a positive number"),
    ],
)
def test_values_outside_their_bounds_are_refused(section, key, value, message):
    changed = section()
    setattr(changed, key, value)
    with pytest.raises(ConfigError, match=message):
        keys.check(changed)


def test_only_what_is_trained_is_bound_to_it():
    affects = {
        f"{section.__name__}.{name}": keys.about(section, name).affects
        for section in (SpeechData, SQCodec, SpeechLoss, SpeechEval)
        for _, _, name in keys.leaves(section())
    }
    free = {key: value for key, value in affects.items() if value != "state"}
    assert free == {
        "SpeechData.source": "source",
        "SpeechData.name": "source",
        "SpeechData.path": "source",
        "SpeechData.train_split": "source",
        "SpeechData.sample_rate": "reading",
        "SpeechData.data_dir": "nothing",
        "SpeechData.eval_crop": "metrics",
        "SpeechData.num_threads": "nothing",
        "SpeechData.cache_mib": "nothing",
        "SpeechLoss.whisper_weights": "nothing",
        "SpeechEval.splits": "metrics",
        "SpeechEval.batch_size": "nothing",
        "SpeechEval.num_pictures": "nothing",
        "SpeechEval.every": "nothing",
        "SpeechEval.num_watched": "nothing",
        "SpeechEval.metrics": "metrics",
    }


def test_a_package_is_needed_only_for_metrics_that_are_computed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    without = tiny_speech.speech({"eval.metrics": ("stoi", "si_sdr_db")})
    without.check_source(without.source("test"), 0)
    with without.scorer():
        pass
    everything = tiny_speech.speech()
    source = everything.source("test")
    for use in (lambda: everything.check_source(source, 0), everything.scorer):
        with pytest.raises(UserError, match=r"package pesq is missing.*'vpvae_jax\[pesq\]'.*--config.eval.metrics="):
            use()


def test_it_loads_without_readers_checkpoints_and_pictures():
    code = (
        "import sys, vpvae_jax.speech.speech as speech, vpvae_jax.speech.settings as s\n"
        "speech.Speech(s.SpeechData(), s.SQCodec(), s.SpeechLoss(), s.SpeechEval()).network(4, 4)\n"
        "print(*sorted({'tensorflow_datasets', 'orbax.checkpoint', 'grain', 'matplotlib', 'scipy.signal', 'pebble'}"
        " & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert not run.stdout.strip()


@pytest.mark.system
def test_the_loss_is_the_weighted_sum_of_its_parts(tmp_path):
    path = tmp_path / "whisper.safetensors"
    safetensors.numpy.save_file(make_whisper.weights(*make_whisper.SIZES["small"]), path)
    weights = {"loss.l1_weight": 10.0, "loss.stft_weight": 0.5, "loss.stft_floor": 1e-2}
    without = tiny_speech.speech(weights).loss()
    whisper = tiny_speech.speech(weights | {"loss.whisper_weight": 0.25, "loss.whisper_weights": str(path)}).loss()
    signal, noise = 0.1 * jax.random.normal(jax.random.key(0), (2, 2, tiny_speech.CROP))
    reconstruction = signal + noise
    value, parts = without.function(without.params, reconstruction, signal)
    assert set(parts) == {"l1", "stft"}
    np.testing.assert_allclose(parts["l1"], jnp.abs(reconstruction - signal).mean(), rtol=1e-5)
    np.testing.assert_allclose(parts["stft"], losses.multi_scale_stft(reconstruction, signal, floor=1e-2), rtol=1e-5)
    np.testing.assert_allclose(value, 10 * parts["l1"] + 0.5 * parts["stft"], rtol=1e-6)
    more, parts = whisper.function(whisper.params, reconstruction, signal)
    encoder, params = load_whisper(path)
    ours, theirs = (encoder.apply({"params": params}, log_mel(x)) for x in (reconstruction, signal))
    assert 0 < parts["whisper"] < 5  # its limit
    np.testing.assert_allclose(parts["whisper"], losses.feature_loss(ours, theirs), rtol=1e-4)
    np.testing.assert_allclose(more - value, 0.25 * parts["whisper"], rtol=1e-4)
