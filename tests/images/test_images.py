"""What the modality makes of its settings."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from tests import tiny
from tests.golden import make_lpips
from vpvae_jax.config import keys
from vpvae_jax.images import images as module
from vpvae_jax.images import metrics
from vpvae_jax.images.images import Images
from vpvae_jax.modality import columns
from vpvae_jax.runtime.errors import ConfigError, DataError

SMALL = {
    "data.resize": 0,
    "data.crop": 16,
    "data.eval_crop": 64,
    "model.channels": 8,
    "model.channel_multipliers": (1, 1),
    "model.attention_levels": (1,),
    "loss.lpips_weight": 0.0,
    "eval.batch_size": 2,
}


def images(**values):
    """The modality with two levels, without LPIPS; `__` stands for the dot of a key."""
    sections = {name: section() for name, section in Images.sections.items()}
    for key, value in (SMALL | {key.replace("__", "."): value for key, value in values.items()}).items():
        section, name = key.split(".")
        keys.assign(sections[section], name, value)
    for section in sections.values():
        keys.check(section)
    return Images(*sections.values())


def folder(path, *sizes, **values):
    """The modality over a folder of images of these sizes; and its records."""
    for width, height in sizes:
        PIL.Image.new("RGB", (width, height)).save(path / f"{width}x{height}.png")
    modality = images(data__source="folder", data__path=str(path), **values)
    return modality, modality.source("all")


class MeanSquare(nn.Module):
    """A perceptual distance of each image, with one parameter."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, others):
        return self.param("weight", nn.initializers.ones, ()) * jnp.square(images - others).mean(axis=(1, 2, 3))


class TestLoss:
    def test_without_a_weight_no_weights_are_read(self):
        loss = images(loss__lpips_weights="nowhere", loss__l1_weight=2.0).loss()
        assert loss.params == {}
        value, parts = loss.function({}, jnp.zeros((1, 16, 16, 3)), jnp.full((1, 16, 16, 3), 0.25))
        assert (value, parts["l1"], parts.keys()) == (0.5, 0.25, {"l1"})

    def test_terms_are_weighted_and_summed(self, monkeypatch):
        """A small network stands for LPIPS, which `tests/perceptual` tests."""
        network = MeanSquare()
        monkeypatch.setattr(module, "load_lpips", lambda path: (network, {"weight": jnp.float32(len(path))}))
        loss = images(loss__l1_weight=2.0, loss__lpips_weight=0.5, loss__lpips_weights="file").loss()
        x, y = make_lpips.images()
        value, parts = jax.jit(loss.function)(loss.params, x, y)
        assert parts["lpips"] == pytest.approx(4 * np.square(x - y).mean(), rel=1e-5)
        assert parts["l1"] == pytest.approx(np.abs(x - y).mean(), rel=1e-5)
        assert value == pytest.approx(float(2.0 * parts["l1"] + 0.5 * parts["lpips"]), rel=1e-6)

    def test_convolutions_compute_in_the_type_of_the_network(self, lpips_file):
        loss = images(loss__lpips_weight=1.0, loss__lpips_weights=lpips_file, model__dtype="bfloat16").loss()
        program = str(jax.make_jaxpr(loss.function)(loss.params, *make_lpips.images()))
        convolutions = [line for line in program.splitlines() if "conv_general_dilated" in line]
        assert len(convolutions) == 26
        assert all("bf16" in line for line in convolutions)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loss.params))

    def test_weights_that_do_not_exist(self):
        modality = images(loss__lpips_weight=1.0, loss__lpips_weights="nowhere.safetensors")
        with pytest.raises(ConfigError, match=r"there is no file nowhere.safetensors: make one"):
            modality.loss()


CROPS = {"data.crop": 16, "data.eval_crop": 64, "codebook.crop": 32}


class TestCheck:
    def test_settings_that_fit(self):
        images().check(CROPS)
        images(data__resize=64).check(CROPS)
        images(data__eval_crop=0, eval__batch_size=1).check(CROPS | {"data.eval_crop": 0})

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"loss.lpips_weight": 1.0}, "loss.lpips_weight=1.0 but loss.lpips_weights is empty: .*--mode=convert"),
            ({"loss.lpips_weight": -1.0}, "expected 0 or more"),
            ({"loss.lpips_weight": 1.0, "loss.lpips_weights": "x", "data.crop": 8}, "data.crop=8: .* least the 16"),
            ({"eval.lpips_weights": "x", "data.eval_crop": 12}, "data.eval_crop=12: expected at least the 16"),
            ({"loss.lpips_weights": "x", "data.eval_crop": 12}, "data.eval_crop=12: expected at least the 16"),
            ({"data.eval_crop": 10}, "data.eval_crop=10: expected 0, or at least the 11 of SSIM"),
            ({"data.crop": 17}, "data.crop=17: expected a multiple of the network's stride 2"),
            ({"data.resize": 48}, r"data.resize=48 makes images smaller than data.crop=16, data.eval_crop=64"),
            ({"data.eval_crop": 0}, "eval.batch_size=2 needs images of one size"),
            ({"model.channel_multipliers": ()}, r"model.channel_multipliers=\(\): expected positive"),
            ({"model.channel_multipliers": (1, 0)}, r"model.channel_multipliers=\(1, 0\): expected positive"),
            ({"model.attention_levels": (2,)}, r"model.attention_levels=\(2,\): expected levels in 0..1"),
            ({"model.norm": "batch"}, "norm='batch': expected one of group, layer"),
        ],
    )
    def test_settings_that_cannot_work(self, values, message):
        crops = CROPS | {key: value for key, value in values.items() if key in CROPS}
        with pytest.raises(ConfigError, match=message):
            images(**values).check(crops)

    def test_resized_images_too_small_for_the_metrics(self):
        """No crop is evaluated, so the check of the crops does not find it."""
        values = {"data.resize": 8, "data.crop": 8, "data.eval_crop": 0, "eval.batch_size": 1}
        with pytest.raises(ConfigError, match=r"data.resize=8 makes images too small for the metrics: .* at least 12"):
            images(**values).check({"data.crop": 8, "data.eval_crop": 0, "codebook.crop": 8})


class TestCheckSource:
    def test_whole_images_too_small_for_ssim(self, tmp_path):
        """Found before training; 11 pixels are cut to 10, which SSIM cannot score."""
        modality, source = folder(tmp_path, (11, 40), data__eval_crop=0, eval__batch_size=1)
        with pytest.raises(DataError, match=r"11x40\.png has 11 x 40 pixels: too small for 12 x 12"):
            modality.check_source(source, 0)
        assert list(modality.examples(source).items) == []

    def test_whole_images_too_small_for_lpips(self, tmp_path, lpips_file):
        modality, source = folder(tmp_path, (12, 40), data__eval_crop=0, eval__batch_size=1)
        modality.check_source(source, 0)
        ((name, _),) = modality.examples(source).items
        assert name == "12x40.png"
        modality, source = folder(tmp_path, data__eval_crop=0, eval__batch_size=1, eval__lpips_weights=lpips_file)
        with pytest.raises(DataError, match=r"12x40\.png has 12 x 40 pixels: too small for 16 x 16"):
            modality.check_source(source, 0)
        assert list(modality.examples(source).items) == []

    def test_smaller_than_a_crop(self, tmp_path):
        modality, source = folder(tmp_path, (20, 40))
        modality.check_source(source, 16)
        with pytest.raises(DataError, match=r"20x40\.png has 20 x 40 pixels: too small for 32 x 32"):
            modality.check_source(source, 32)

    def test_resized_images_need_no_check(self, tmp_path):
        modality, source = folder(tmp_path, (20, 40), data__resize=64)
        modality.check_source(source, 64)


class TestMetrics:
    def test_columns_of_tables(self):
        assert Images.metrics is metrics.METRICS
        shown = columns(Images.metrics)
        expected = [
            ("psnr_db", "PSNR dB", 2, ""),
            ("psnr_db_continuous", "continuous dB", 2, ""),
            ("ssim", "SSIM", 3, ""),
            ("lpips", "LPIPS", 3, "lpips_weights"),
            ("rfid", "rFID", 2, "inception_weights"),
            ("cvu", "CVU", 3, ""),
        ]
        rows = [(key, metric.title, metric.decimals, metric.needs) for key, metric in shown.items()]
        assert [row for row in rows if row in expected] == expected  # and whatever entry is added

    def test_weights_are_keys_of_the_settings(self):
        names = {name for _, _, name in keys.leaves(Images.sections["eval"]())}
        assert {metric.needs for metric in metrics.METRICS} - {""} <= names

    def test_scorer_reads_its_weights_at_once(self):
        with pytest.raises(ConfigError, match="there is no file nowhere"):
            images(eval__lpips_weights="nowhere").scorer()

    def test_weights_of_the_loss_serve_evaluations_unless_others_are_named(self, lpips_file):
        with pytest.raises(ConfigError, match="there is no file nowhere"):
            images(loss__lpips_weights="nowhere").scorer()
        images(loss__lpips_weights="nowhere", eval__lpips_weights="").scorer()
        images(loss__lpips_weights="nowhere", eval__lpips_weights=lpips_file).scorer()


def test_examples_that_cannot_be_tokenized():
    modality = images()
    modality.check_examples(np.zeros((1, 4, 6, 3), np.uint8))
    for wrong in (np.zeros((1, 4, 6, 3), np.float32), np.zeros((4, 6, 3), np.uint8), np.zeros((1, 4, 6, 1), np.uint8)):
        with pytest.raises(DataError, match=r"expected uint8 \(n, height, width, 3\)"):
            modality.check_examples(wrong)
    with pytest.raises(DataError, match=r"images have 4 x 7 pixels: expected multiples of 2"):
        modality.check_examples(np.zeros((1, 4, 7, 3), np.uint8))


def test_tokens_and_rate():
    modality = images(model__channel_multipliers=(1, 2, 2, 4))
    assert (modality.stride, modality.tokens(256), modality.rate(1024)) == (8, 1024, 10 / 64)
    assert modality.batch_shape(4, 32).shape == (4, 32, 32, 3)


def test_a_tokenizer_needs_no_readers_and_no_pictures():
    code = "import sys, vpvae_jax.images.images; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tiny.ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert {"vpvae_jax", "flax"} <= imported  # the list is not empty by mistake
    assert not imported & {"tensorflow_datasets", "tensorflow", "orbax", "grain", "matplotlib"}
