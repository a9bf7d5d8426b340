"""The encoder against numbers of PyTorch's, stored and, where transformers is installed, new ones; and its files."""

import pickle
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests.golden import make_whisper
from vpvae_jax.perceptual import whisper
from vpvae_jax.perceptual.whisper import WhisperEncoder, load_whisper, log_mel
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.speech.losses import feature_loss

SMALL = make_whisper.SIZES["small"]


@pytest.fixture(scope="module")
def expected():
    with np.load(Path(make_whisper.__file__).with_name("whisper.npz"), allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def mels():
    return {name: jax.jit(log_mel)(sound[None]) for name, sound in make_whisper.sounds().items()}


@pytest.fixture
def save(tmp_path):
    def save(tensors):
        path = tmp_path / "whisper.safetensors"
        safetensors.numpy.save_file(tensors, path)
        return path

    return save


def features_of(path, mel):
    encoder, params = load_whisper(path)
    return jax.jit(lambda params, mel: encoder.apply({"params": params}, mel))(params, mel)


class TestGolden:
    @pytest.mark.parametrize("name", ["short", "long"])
    def test_log_mel(self, expected, mels, name):
        assert mels[name].shape == (1, 3000, 80)
        assert mels[name].dtype == jnp.float32
        np.testing.assert_allclose(mels[name][:, make_whisper.FRAMES], expected[f"log_mel/{name}"], atol=1e-4)

    @pytest.mark.parametrize(
        ("size", "names"),
        [("small", ("short", "long")), pytest.param("tiny", ("short",), marks=pytest.mark.system)],
    )
    def test_features(self, expected, mels, save, size, names):
        path = save(make_whisper.weights(*make_whisper.SIZES[size]))
        found = features_of(path, jnp.concatenate([mels[name] for name in names]))
        np.testing.assert_allclose(found[:, make_whisper.POSITIONS], expected[f"features/{size}"], atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of what transformers imports
class TestAgainstTransformers:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("torch")
        pytest.importorskip("transformers")

    @pytest.mark.parametrize("num_samples", [100, 8_000, 479_900, 480_000, 500_000])
    def test_log_mel(self, num_samples):
        """Shorter than the reflected edge, padded, with the far edge heard, cut."""
        rng = np.random.default_rng(num_samples)
        sound = (0.1 * rng.normal(size=num_samples) * rng.choice([0.01, 1.0], num_samples)).astype(np.float32)
        found = log_mel(jnp.asarray(sound)[None])
        np.testing.assert_allclose(found, make_whisper.reference_log_mel(sound), atol=1e-4)

    @pytest.mark.parametrize("size", ["small", "tiny"])
    def test_features(self, save, size):
        sizes = make_whisper.SIZES[size]
        tensors = make_whisper.weights(*sizes, seed=7)
        mel = np.random.default_rng(8).normal(0, 0.5, (1, 3000, 80)).astype(np.float32)
        expected = make_whisper.reference_features(tensors, *sizes, mel)
        np.testing.assert_allclose(features_of(save(tensors), mel), expected, atol=1e-4)


class TestLogMel:
    def test_of_silence_is_the_floor(self):
        np.testing.assert_allclose(log_mel(jnp.zeros((1, 16_000))), (-10 + 4) / 4, rtol=1e-6)

    @pytest.mark.parametrize("heard", [(0, 0), (4_000, 8_000), (0, 16_000)])
    def test_gradient_is_finite_with_silence_in_and_after_the_clip(self, heard):
        waveform = jnp.zeros((1, 16_000)).at[:, slice(*heard)].set(0.3)
        waveform = waveform * jax.random.normal(jax.random.key(0), waveform.shape)
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(log_mel(x)))))(waveform)
        assert bool(jnp.isfinite(gradient).all())
        assert bool((gradient != 0).any()) == (heard != (0, 0))

    def test_gradient_is_that_of_differences(self):
        direction, waveform = jax.random.normal(jax.random.key(1), (2, 1, 4_000))
        weight = jax.random.normal(jax.random.key(2), (26, 80))  # frames that hear the clip

        def function(step):
            return jnp.sum(weight * log_mel(waveform + step * direction)[0, :26])

        jitted = jax.jit(function)
        differences = (jitted(1e-3) - jitted(-1e-3)) / 2e-3
        np.testing.assert_allclose(jax.jit(jax.grad(function))(0.0), differences, rtol=0.02)

    def test_clips_of_a_batch_do_not_see_each_other(self, mels):
        loud, quiet = make_whisper.sounds()["short"], 1e-3 * make_whisper.sounds()["short"]
        together = log_mel(jnp.stack([loud, quiet]))
        np.testing.assert_allclose(together[0], mels["short"][0], atol=1e-5)
        np.testing.assert_allclose(together[1], log_mel(quiet[None])[0], atol=1e-5)


class TestEncoder:
    def test_is_tiny_by_default(self):
        encoder = WhisperEncoder()
        mel = jnp.zeros((2, 3000, 80))
        features, variables = jax.eval_shape(lambda: encoder.init_with_output(jax.random.key(0), mel))
        assert features.shape == (2, 1500, 384)
        count = sum(leaf.size for leaf in jax.tree.leaves(variables))
        assert count == sum(tensor.size for tensor in make_whisper.weights(4, 384).values()) == 7_632_384

    @pytest.mark.system
    def test_bfloat16_is_near(self, mels, save):
        encoder, params = load_whisper(save(make_whisper.weights(*SMALL)))
        mel = mels["short"][:, :400]
        expected = encoder.apply({"params": params}, mel)
        found = encoder.clone(dtype=jnp.bfloat16).apply({"params": params}, mel)
        assert found.dtype == jnp.bfloat16
        assert float(jnp.abs(found - expected).mean()) < 0.02 * float(jnp.abs(expected).mean())

    @pytest.mark.system
    def test_loss_pulls_a_waveform_towards_its_target(self, save):
        """One small step against the gradient makes the loss smaller; nothing on the way is not finite."""
        encoder, params = load_whisper(save(make_whisper.weights(1, 64)))
        target = jnp.asarray(make_whisper.sounds()["short"][None, :8_000])
        noisy = target + 0.05 * jax.random.normal(jax.random.key(3), target.shape)

        @jax.jit
        def loss(waveform):
            heard, wanted = (encoder.apply({"params": params}, log_mel(x)) for x in (waveform, target))
            return feature_loss(heard, wanted, limit=1e3)

        value, gradient = jax.value_and_grad(loss)(noisy)
        assert bool(jnp.isfinite(gradient).all())
        step = 0.02 * value / jnp.sum(gradient**2)
        np.testing.assert_allclose(loss(noisy - step * gradient), 0.98 * value, rtol=0.01)


class TestFiles:
    def test_both_prefixes_and_decoders_not_read(self, save, monkeypatch):
        tensors = make_whisper.weights(*SMALL)
        long, expected = load_whisper(save(tensors))
        short = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        read, open_file = [], safetensors.safe_open

        class Recorder:
            def __init__(self, *args, **kwargs):
                self.file = open_file(*args, **kwargs)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def __getattr__(self, name):
                return getattr(self.file, name)

            def get_tensor(self, name):
                read.append(name)
                return self.file.get_tensor(name)

        monkeypatch.setattr(whisper.safetensors, "safe_open", Recorder)
        decoder = {"decoder.layers.5.fc1.weight": np.zeros((4, 4), np.float32), "proj_out.weight": np.zeros((4, 4))}
        encoder, params = load_whisper(save(short | decoder))
        assert encoder == long == WhisperEncoder(2, 128, 2)
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        assert sorted(read) == sorted(short)

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
    def test_are_read_as_float32(self, save, dtype):
        tensors = {name: tensor.astype(dtype) for name, tensor in make_whisper.weights(1, 64).items()}
        _, params = load_whisper(save(tensors))
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
        kernel = tensors["model.encoder.layers.0.fc1.weight"].astype(np.float32).T
        np.testing.assert_array_equal(params["layers_0"]["mlp_in"]["kernel"], kernel)


def refused(argument, match):
    """Refused in one line that names the key and the way out."""
    with pytest.raises(ConfigError, match=match) as caught:
        load_whisper(argument)
    message = str(caught.value)
    assert message.startswith("loss.whisper_weights: ")
    assert "set loss.whisper_weight to 0" in message
    assert "\n" not in message


class TestRefusals:
    @pytest.mark.parametrize("name", ["nowhere.safetensors", "weights/whisper.safetensors", "/a/b/c", ""])
    def test_no_file(self, name):
        refused(name, f"there is no file '{name}'")

    def test_not_safetensors(self, tmp_path):
        text, cut = tmp_path / "text", tmp_path / "cut"
        text.write_text("two\nlines")
        safetensors.numpy.save_file(make_whisper.weights(1, 64), cut)
        cut.write_bytes(cut.read_bytes()[:5_000])
        for path in (text, cut, tmp_path):
            refused(path, f"{path} is not a safetensors file")

    def test_pickles_are_not_opened(self, tmp_path):
        path, trap = tmp_path / "pytorch_model.bin", tmp_path / "sprung"

        class Trap:
            def __reduce__(self):
                return Path.touch, (trap,)

        path.write_bytes(pickle.dumps(Trap()))
        refused(path, "not a safetensors file")
        assert not trap.exists()

    @pytest.mark.parametrize(
        "name",
        ["model.encoder.conv1.weight", "model.encoder.layers.0.self_attn.v_proj.bias", "model.encoder.conv2.bias"],
    )
    def test_a_tensor_lacks(self, save, name):
        tensors = make_whisper.weights(*SMALL)
        del tensors[name]
        refused(save(tensors), f"lacks the tensor {name}")

    def test_no_layers(self, save):
        tensors = {name: tensor for name, tensor in make_whisper.weights(*SMALL).items() if "layers." not in name}
        refused(save(tensors), "lacks the tensor model.encoder.layers.0.")

    @pytest.mark.parametrize(
        ("name", "tensor", "match"),
        [
            ("conv1.weight", np.zeros((64, 128, 3), np.float32), "128 mel bands"),
            ("conv1.weight", np.zeros((96, 80, 3), np.float32), "96 wide"),
            ("conv1.weight", np.zeros((64, 80), np.float32), r"F32 \[64, 80\], not as 3-d floats"),
            ("layers.0.fc1.weight", np.zeros((256, 64), np.int8), "fc1.weight as I8"),
            ("layers.0.fc1.weight", np.zeros((64, 256), np.float32), r"fc1.weight of another shape than \(256, 64\)"),
        ],
    )
    def test_other_sizes_and_types(self, save, name, tensor, match):
        refused(save(make_whisper.weights(1, 64) | {f"model.encoder.{name}": tensor}), match)


class TestRepository:
    @staticmethod
    def hub(monkeypatch, download):
        monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))

    def test_is_downloaded(self, monkeypatch, save):
        path = save(make_whisper.weights(1, 64))
        asked = []
        self.hub(monkeypatch, lambda *args: asked.append(args) or str(path))
        encoder, _ = load_whisper("openai/whisper-tiny.en")
        assert asked == [("openai/whisper-tiny.en", "model.safetensors")]
        assert encoder.num_layers == 1

    def test_no_hub(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        refused("openai/whisper-tiny.en", "needs huggingface_hub: pip install huggingface_hub")

    @pytest.mark.parametrize("kind", [ConnectionError, ValueError, Exception])  # of httpx, for one
    def test_no_network(self, monkeypatch, kind):
        def download(*_):
            raise kind("cannot be reached\nand more lines")

        self.hub(monkeypatch, download)
        refused("openai/whisper-tiny.en", r"cannot be downloaded \(cannot be reached\)")

    def test_a_file_of_that_name_comes_first(self, monkeypatch, tmp_path, save):
        path = save(make_whisper.weights(1, 64))
        self.hub(monkeypatch, None)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "openai").mkdir()
        path.rename(tmp_path / "openai" / "tiny")
        assert load_whisper("openai/tiny")[0].width == 64
