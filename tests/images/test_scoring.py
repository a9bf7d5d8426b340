"""Scores of reconstructions: every entry of the list of metrics, and what is left out."""

import numpy as np
import pytest

from tests.golden import make_inception
from vpvae_jax.images import metrics, scoring
from vpvae_jax.images.fid import make_features
from vpvae_jax.images.scoring import ImageScorer
from vpvae_jax.modality import Metric
from vpvae_jax.perceptual.frozen import write_params
from vpvae_jax.perceptual.inception import from_torch, inception_shapes
from vpvae_jax.reporting.tables import results_table
from vpvae_jax.runtime import processes

COUNTS = {
    "num_examples": 4,
    "num_tokens": 100,
    "num_codes_used": 2,
    "codebook_size": 4,
    "cvu": 0.5,
    "cvu_ceiling": 0.9,
    "num_skipped": 0,
}


def means_of(scorer, x, y):
    scorer.add(list("abcd"), x, x, y)
    return scorer.results(processes.gather)


def test_a_metric_is_an_entry(monkeypatch, pairs):
    """One entry adds it to results and tables; values above PSNR's limit stay as they are."""
    x, y = pairs
    brightest = Metric("brightest", "brightest", 1, lambda ours, theirs: 1000.0 + ours.max(axis=(1, 2, 3)))
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, brightest))
    means, examples = means_of(ImageScorer(), x, y)
    assert [each["brightest"] for each in examples] == [1000.0 + int(image.max()) for image in y]
    assert means["brightest"] == pytest.approx(np.mean([each["brightest"] for each in examples]))
    assert means["brightest_continuous"] == pytest.approx(np.mean([1000.0 + int(image.max()) for image in x]))
    rows = results_table({("photos-test", "k16"): means | COUNTS}, metrics.METRICS).splitlines()
    assert "brightest" in rows[0]
    assert f"{means['brightest']:.1f}" in rows[1]


def test_equal_images_have_finite_scores(pairs):
    x, _ = pairs
    means, examples = means_of(ImageScorer(), x, x)
    assert means["psnr_db"] == metrics.MAX_DB
    assert means["ssim_continuous"] == pytest.approx(1.0)
    assert [each["name"] for each in examples] == list("abcd")


def test_table_says_what_was_not_scored(lpips_file, pairs):
    x, y = pairs
    tables = []
    for weights in ("", lpips_file):
        means, _ = means_of(ImageScorer(lpips_weights=weights), x, y)
        tables.append(results_table({("photos-test", "k16"): means | COUNTS}, metrics.METRICS))
    without, scored = tables
    assert "\nwithout LPIPS: it needs --config.eval.lpips_weights\n" in without
    assert without.endswith("\nwithout rFID: it needs --config.eval.inception_weights")
    assert "LPIPS" not in without.splitlines()[0]
    assert scored.splitlines()[0].split().count("LPIPS") == 1
    assert "without LPIPS" not in scored
    assert f"{means['lpips']:.3f}" in scored.splitlines()[1]
    assert means["lpips_continuous"] == pytest.approx(0.0, abs=1e-12)


def test_weights_that_no_metric_needs():
    with pytest.raises(TypeError, match="no metric needs vgg"):
        ImageScorer(vgg="file")


@pytest.mark.reliability
def test_rfid_is_of_all_images_together(tmp_path, pairs):
    """Against the features' moments taken by hand; two batches, or two processes, count as one."""
    shapes = inception_shapes()
    path = tmp_path / "inception.safetensors"
    write_params(from_torch(make_inception.state(make_inception.torch_shapes(shapes))), shapes, path)
    x, y = pairs
    scorer = ImageScorer(inception_weights=str(path))
    for part in (slice(0, 2), slice(2, 4)):
        scorer.add(list("ab"), x[part], x[part], y[part])
    means, examples = scorer.results(processes.gather)
    extract = make_features(str(path))  # batches of two, for which it is compiled
    features = [np.concatenate([np.asarray(extract(z[i : i + 2]), np.float64) for i in (0, 2)]) for z in (x, y)]
    difference = np.square(features[0].mean(axis=0) - features[1].mean(axis=0)).sum()
    roots = [(f - f.mean(axis=0)) / np.sqrt(3) for f in features]  # covariances are root.T @ root
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    assert means["rfid"] == pytest.approx(difference + sum(np.square(r).sum() for r in roots) - 2 * cross, rel=1e-3)
    assert means["rfid_continuous"] == pytest.approx(0.0, abs=1e-3)
    assert "rfid" not in examples[0]
    shares = [ImageScorer(inception_weights=str(path)) for _ in range(2)]
    for scorer, part in zip(shares, (slice(0, 2), slice(2, 4)), strict=True):
        scorer.add(list("ab"), x[part], x[part], y[part])
    second: list = []
    shares[1].results(lambda value: second.append(value) or [value])
    together, of_each = shares[0].results(lambda value: [value, second.pop(0)])
    assert together["rfid"] == pytest.approx(means["rfid"], rel=1e-6)
    assert len(of_each) == 4


def test_rfid_of_a_single_image_is_none(monkeypatch, pairs):
    monkeypatch.setattr(scoring, "make_features", lambda file: lambda images: np.ones((len(images), 2048)))
    alone = ImageScorer(inception_weights="file")
    alone.add(["a"], pairs[0][:1], pairs[0][:1], pairs[1][:1])
    assert alone.results(processes.gather)[0]["rfid"] is None
