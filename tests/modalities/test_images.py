"""What the image modality makes of a config."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from tests import tiny
from tests.golden import make_inception, make_lpips
from vpvae_jax import build, distributed
from vpvae_jax.errors import ConfigError, DataError
from vpvae_jax.evaluation.results import table
from vpvae_jax.modalities.images import IMAGES
from vpvae_jax.models.frozen import write_params
from vpvae_jax.models.inception import from_torch, inception_shapes, load_inception
from vpvae_jax.models.lpips import load_lpips
from vpvae_jax.scoring.images import ImageScorer


class TestLoss:
    def test_without_a_weight_no_weights_are_read(self, data_dir):
        loss = IMAGES.build_loss(tiny.config(data_dir, loss__lpips_weights="nowhere", loss__l1_weight=2.0))
        assert loss.params == {}
        value, parts = loss.function({}, jnp.zeros((1, 16, 16, 3)), jnp.full((1, 16, 16, 3), 0.25))
        assert (value, parts["l1"], parts.keys()) == (0.5, 0.25, {"l1"})

    def test_terms_are_weighted_and_summed(self, data_dir, lpips_file):
        values = {"loss.l1_weight": 2.0, "loss.lpips_weight": 0.5, "loss.lpips_weights": lpips_file}
        loss = IMAGES.build_loss(tiny.config(data_dir, **values))
        x, y = make_lpips.images()
        value, parts = jax.jit(loss.function)(loss.params, x, y)
        network, params = load_lpips(lpips_file)
        expected = network.apply({"params": params}, x, y).mean()
        assert parts["lpips"] == pytest.approx(float(expected), rel=1e-5)
        assert parts["l1"] == pytest.approx(np.abs(x - y).mean(), rel=1e-5)
        assert value == pytest.approx(float(2.0 * parts["l1"] + 0.5 * parts["lpips"]), rel=1e-6)

    def test_convolutions_compute_in_the_type_of_the_network(self, data_dir, lpips_file):
        values = {"loss.lpips_weight": 1.0, "loss.lpips_weights": lpips_file, "model.dtype": "bfloat16"}
        loss = IMAGES.build_loss(tiny.config(data_dir, **values))
        program = str(jax.make_jaxpr(loss.function)(loss.params, *make_lpips.images()))
        convolutions = [line for line in program.splitlines() if "conv_general_dilated" in line]
        assert len(convolutions) == 26
        assert all("bf16" in line for line in convolutions)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loss.params))

    def test_weights_that_are_not_there(self, data_dir):
        config = tiny.config(data_dir, loss__lpips_weight=1.0, loss__lpips_weights="nowhere.safetensors")
        with pytest.raises(ConfigError, match=r"there is no file nowhere.safetensors: make one"):
            IMAGES.build_loss(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss.lpips_weight": 1.0}, "loss.lpips_weight=1.0 but loss.lpips_weights is empty"),
        ({"loss.lpips_weight": -1.0}, "expected 0 or more"),
        (
            {"loss.lpips_weight": 1.0, "loss.lpips_weights": "x", "data.crop": 8},
            "data.crop=8: expected at least the 16",
        ),
        ({"eval.lpips_weights": "x", "data.eval_crop": 12}, "data.eval_crop=12: expected at least the 16"),
    ],
)
def test_settings_that_cannot_work(data_dir, values, message):
    with pytest.raises(ConfigError, match=message):
        build.check_config(tiny.config(data_dir, **values))


def test_whole_images_too_small_for_lpips(tmp_path, data_dir, lpips_file):
    PIL.Image.new("RGB", (12, 40)).save(tmp_path / "slim.png")
    values = {"data.source": "folder", "data.path": str(tmp_path), "data.eval_crop": 0, "eval.batch_size": 1}
    ((name, _),) = build.examples(tiny.config(data_dir, **values), "all").items
    assert name == "slim.png"
    with pytest.raises(DataError, match=r"slim\.png has 12 x 40 pixels but the crop needs 16 x 16"):
        list(build.examples(tiny.config(data_dir, **values, eval__lpips_weights=lpips_file), "all").items)


def test_scorer_reads_its_weights_at_once(data_dir):
    with pytest.raises(ConfigError, match="there is no file nowhere"):
        build.build_scorer(tiny.config(data_dir, eval__lpips_weights="nowhere"))


@pytest.mark.slow
def test_rfid_is_of_all_images_together(tmp_path):
    """Against the features' moments taken by hand; two batches, or two processes, count as one."""
    shapes = inception_shapes()
    path = tmp_path / "inception.safetensors"
    write_params(from_torch(make_inception.state(make_inception.torch_shapes(shapes))), shapes, path)
    x, y = ((127.5 * (image + 1)).astype(np.uint8) for image in make_lpips.images())
    scorer = ImageScorer(inception_weights=str(path))
    for part in (slice(0, 2), slice(2, 4)):
        scorer.add(list("ab"), x[part], x[part], y[part])
    means, examples = scorer.results(distributed.gather)
    network, params = load_inception(path)
    features = [np.asarray(network.apply({"params": params}, image / 127.5 - 1), np.float64) for image in (x, y)]
    difference = np.square(features[0].mean(axis=0) - features[1].mean(axis=0)).sum()
    roots = [(f - f.mean(axis=0)) / np.sqrt(3) for f in features]  # covariances are root.T @ root
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    assert means["rfid"] == pytest.approx(difference + sum(np.square(r).sum() for r in roots) - 2 * cross, rel=1e-3)
    assert means["rfid_continuous"] == pytest.approx(0.0, abs=1e-3)
    assert "rfid" not in examples[0]
    shares = [ImageScorer(inception_weights=str(path)) for _ in range(2)]
    for scorer, part in zip(shares, (slice(0, 3), slice(3, 4)), strict=True):
        scorer.add(list("abc")[: len(x[part])], x[part], x[part], y[part])
    second: list = []
    shares[1].results(lambda value: second.append(value) or [value])
    together, of_each = shares[0].results(lambda value: [value, second.pop(0)])
    assert together["rfid"] == pytest.approx(means["rfid"], rel=1e-6)
    assert len(of_each) == 4
    alone = ImageScorer(inception_weights=str(path))
    alone.add(["a"], x[:1], x[:1], y[:1])
    assert alone.results(distributed.gather)[0]["rfid"] is None


def test_table_says_what_was_not_scored(lpips_file):
    x, y = ((127.5 * (image + 1)).astype(np.uint8) for image in make_lpips.images())
    tables = []
    for weights in ("", lpips_file):
        scorer = ImageScorer(weights)
        scorer.add(list("abcd"), x, x, y)
        means, _ = scorer.results(distributed.gather)
        counts = {"cvu": 0.5, "num_examples": 4, "num_codes_used": 2, "codebook_size": 4, "num_skipped": 0}
        tables.append(table({"photos-test": means | counts}, IMAGES.figures))
    without, scored = tables
    assert "\nwithout LPIPS: it needs --config.eval.lpips_weights\n" in without
    assert without.endswith("\nwithout rFID: it needs --config.eval.inception_weights")
    assert "LPIPS" not in without.splitlines()[0]
    assert scored.splitlines()[0].split().count("LPIPS") == 1
    assert "without LPIPS" not in scored
    assert f"{means['lpips']:.3f}" in scored.splitlines()[1]
    assert means["lpips_continuous"] == pytest.approx(0.0, abs=1e-12)
