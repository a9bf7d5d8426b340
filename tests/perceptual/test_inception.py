"""Inception against numbers of pytorch-fid's, stored and, where it is installed, new ones; and its files."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from tests.golden import make_inception
from vpvae_jax.images.pixels import to_signal
from vpvae_jax.perceptual.convert import convert
from vpvae_jax.perceptual.frozen import write_params
from vpvae_jax.perceptual.inception import InceptionV3, from_torch, inception_shapes, load_inception
from vpvae_jax.runtime.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def expected():
    with np.load(Path(make_inception.__file__).with_name("inception.npz"), allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def state():
    return make_inception.state(make_inception.torch_shapes(inception_shapes()))


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    write_params(from_torch(state), inception_shapes(), path)
    return path


def features_of(path):
    network, params = load_inception(path)
    return np.concatenate([network.apply({"params": params}, to_signal(photo)) for photo in make_inception.images()])


@pytest.mark.system
def test_features(weights, expected):
    features = features_of(weights)
    assert (features.shape, features.dtype) == ((2, 2048), np.float32)
    np.testing.assert_allclose(features, expected["features"], rtol=1e-3, atol=1e-4)
    assert np.std(expected["features"]) > 1


@pytest.mark.system
def test_live(state, weights):
    pytest.importorskip("pytorch_fid")
    live = make_inception.reference_features(state, make_inception.images())
    np.testing.assert_allclose(features_of(weights), live, rtol=1e-3, atol=1e-4)


def test_size_is_the_published_one():
    """torchvision names 21,785,568 without classifiers, of them a scale and a bias for each of 17,216 channels."""
    shapes = inception_shapes()
    assert len(shapes) == 2 * 94
    assert sum(np.prod(shape) for name, shape in shapes.items() if name.endswith("kernel")) == 21_751_136


@pytest.mark.system
def test_every_width_goes_through(weights):
    network, params = load_inception(weights)
    image = jax.ShapeDtypeStruct((2, 64, 80, 3), np.float32)
    assert jax.eval_shape(lambda p, x: network.apply({"params": p}, x), params, image).shape == (2, 2048)
    assert isinstance(network, InceptionV3)


@pytest.mark.system
def test_other_files(tmp_path, state):
    with pytest.raises(ConfigError, match=r"there is no file .*: make one with `.* --mode=convert --network=inception"):
        load_inception(tmp_path / "nothing")
    safetensors.numpy.save_file({"a": np.ones(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="has nothing as"):
        load_inception(tmp_path / "other.safetensors")
    lacking = {name: tensor for name, tensor in state.items() if name != "Mixed_7b.branch_pool.bn.bias"}
    with pytest.raises(DataError, match=r"the file lacks 'Mixed_7b.branch_pool.bn.bias'"):
        from_torch(lacking)
    (tmp_path / "weights.pth").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"is another file \(sha256 .*: download that one"):
        convert("inception", [tmp_path / "weights.pth"], tmp_path / "out")
    with pytest.raises(DataError, match="nothing cannot be read"):
        convert("inception", [tmp_path / "nothing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.system
def test_writing_tensors_of_another_shape(tmp_path, state):
    tensors = from_torch(state)
    tensors["Conv2d_1a_3x3.conv.bias"] = np.ones(3)
    with pytest.raises(DataError, match=r"Conv2d_1a_3x3.conv.bias is of shape \(3,\) among the weights"):
        write_params(tensors, inception_shapes(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
