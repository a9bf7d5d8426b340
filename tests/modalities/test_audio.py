import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.modalities import tiny_speech
from vpvae_jax import build
from vpvae_jax.errors import ConfigError, DataError
from vpvae_jax.fit import fit_codebook
from vpvae_jax.modalities.audio import build_loss
from vpvae_jax.tokenizer import Tokenizer
from vpvae_jax.training.loop import train


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Trained for two steps on the recordings of the package."""
    workdir = tmp_path_factory.mktemp("speech")
    config = tiny_speech.config()
    build.check_config(config)
    build.check_data(config)
    train(config, workdir)
    fit_codebook(config, workdir).save(workdir / "tokenizer")
    return Tokenizer.load(workdir / "tokenizer")


@pytest.mark.parametrize("samples", [1, 96, 97, 3000])
def test_recordings_of_any_length_go_to_tokens_and_back(tokenizer, samples):
    waveforms = np.random.default_rng(0).normal(size=(2, samples)).astype(np.float32) * 0.1
    indices = tokenizer.encode(waveforms)
    assert indices.shape == (2, -(-samples // 96))
    assert indices.dtype == jnp.int32
    decoded = tokenizer.decode(indices)
    assert decoded.shape == (2, 96 * indices.shape[1])
    assert np.abs(decoded).max() <= 1


def test_tokens_of_the_start_do_not_depend_on_what_follows_much_later(tokenizer):
    waveforms = np.random.default_rng(0).normal(size=(1, 20_000)).astype(np.float32) * 0.1
    changed = waveforms.copy()
    changed[:, 10_000:] = 0
    np.testing.assert_array_equal(tokenizer.encode(waveforms)[:, :80], tokenizer.encode(changed)[:, :80])


def test_what_is_no_batch_of_waveforms_is_refused(tokenizer):
    for wrong in (np.zeros((1, 100), np.int16), np.zeros(100, np.float32), np.zeros((1, 0), np.float32)):
        with pytest.raises(DataError, match="expected float32"):
            tokenizer.encode(wrong)
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
    ],
)
def test_settings_that_cannot_work_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build.check_config(tiny_speech.config(overrides))


def test_the_loss_is_the_weighted_sum_of_its_parts():
    loss = build_loss(tiny_speech.config({"loss.l1_weight": 10.0, "loss.stft_weight": 0.5}))
    waveforms = 0.1 * jax.random.normal(jax.random.key(0), (2, 2, 1920))
    value, parts = loss.function(loss.params, *waveforms)
    assert set(parts) == {"l1", "stft"}
    np.testing.assert_allclose(value, 10 * parts["l1"] + 0.5 * parts["stft"], rtol=1e-6)
