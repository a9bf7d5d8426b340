import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests.golden import make_whisper
from tests.modalities import tiny_speech
from vpvae_jax import build, losses
from vpvae_jax.errors import ConfigError, DataError
from vpvae_jax.modalities.audio import build_loss
from vpvae_jax.models.whisper import load_whisper, log_mel
from vpvae_jax.tokenizer import Tokenizer
from vpvae_jax.training.loop import new_state


@pytest.fixture(scope="module")
def tokenizer():
    """Of an untrained network; tests/test_main_speech.py trains one."""
    config = tiny_speech.config()
    build.check_config(config)
    build.check_data(config)
    codebook = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    return Tokenizer(config, new_state(config).params["network"], codebook, 0)


@pytest.mark.parametrize("samples", [1, 96, 97, 3000])
def test_recordings_of_any_length_go_to_tokens_and_back(tokenizer, samples):
    waveforms = np.random.default_rng(0).normal(size=(2, samples)).astype(np.float32) * 0.1
    indices = tokenizer.encode(waveforms)
    assert indices.shape == (2, -(-samples // 96))
    assert indices.dtype == jnp.int32
    decoded = tokenizer.decode(indices)
    assert decoded.shape == (2, 96 * indices.shape[1])
    assert np.abs(decoded).max() <= 1


def test_what_is_decoded_of_the_start_does_not_depend_on_what_follows_much_later(tokenizer):
    """The decoder normalises over all that it sees: without windows every sample would change."""
    z = np.random.default_rng(0).normal(size=(1, 200, 3)).astype(np.float32)
    changed = z.copy()
    changed[:, 100:] = 0
    ours, theirs = tokenizer.decode_latents(z), tokenizer.decode_latents(changed)
    np.testing.assert_array_equal(ours[:, : 80 * 96], theirs[:, : 80 * 96])
    assert (ours[:, 90 * 96 : 95 * 96] != theirs[:, 90 * 96 : 95 * 96]).any()


def test_nothing_is_compiled_for_another_length(tokenizer, caplog):
    def compiled(samples):
        caplog.clear()
        with jax.log_compiles():
            tokenizer.decode(tokenizer.encode(np.full((1, samples), 0.1, np.float32)))
        return [record for record in caplog.records if "Compiling" in record.message]

    weights = tokenizer._weights
    tokenizer = Tokenizer(
        tokenizer.config, weights["network"], weights["codebook"], 0
    )  # that has not seen a recording yet
    assert compiled(20_000)
    assert not any(compiled(samples) for samples in (20_096, 20_200, 31_000))


def test_what_is_no_batch_of_waveforms_is_refused(tokenizer):
    for wrong in ([[1, 2]], np.zeros((1, 100), np.int16), np.zeros(100, np.float32), np.zeros((1, 0), np.float32)):
        with pytest.raises(DataError, match="expected float32"):
            tokenizer.encode(wrong)
    for samples in (np.nan, np.inf, 3000.0):
        with pytest.raises(DataError, match=r"waveforms reach .*: expected samples in \[-1, 1\]"):
            tokenizer.encode(np.array([[0.1, samples]]))
    with pytest.raises(DataError, match=r"expected whole numbers \(n, tokens\)"):
        tokenizer.decode(np.zeros((1, 2, 2), np.int32))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.crop": 1000}, "multiple of the network's hop 96"),
        ({"data.crop": 480}, "at least 513 samples"),
        ({"model.context": 960}, "leaves nothing"),
        ({"model.decoder_rates": (4, 4, 3, 1)}, "expected 96"),
        ({"model.encoder_depths": (1, 1)}, "expected 3 strides and 4 depths"),
        ({"loss.whisper_weight": 1.0}, "loss.whisper_weights is empty"),
        ({"data.sample_rate": 8000}, "files state theirs"),
        ({"data.source": "tfds", "data.name": "x", "data.path": "", "data.sample_rate": 0}, "positive number of Hz"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build.check_config(tiny_speech.config(overrides))


@pytest.mark.slow
def test_the_loss_is_the_weighted_sum_of_its_parts(tmp_path):
    path = tmp_path / "whisper.safetensors"
    safetensors.numpy.save_file(make_whisper.weights(*make_whisper.SIZES["small"]), path)
    weights = {"loss.l1_weight": 10.0, "loss.stft_weight": 0.5, "loss.stft_floor": 1e-2}
    without = build_loss(tiny_speech.config(weights))
    whisper = build_loss(tiny_speech.config(weights | {"loss.whisper_weight": 0.25, "loss.whisper_weights": str(path)}))
    signal, noise = 0.1 * jax.random.normal(jax.random.key(0), (2, 2, 1920))
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
