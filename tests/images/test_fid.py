from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from tests.golden import make_inception
from vpvae_jax.images.fid import Moments, frechet_distance


def moments(features, cuts=()):
    made = Moments(features.shape[1])
    for part in np.split(features, list(cuts)):
        made.add(part)
    return made


def test_moments_are_those_of_all_samples_however_they_come():
    features, _ = make_inception.samples()
    for cuts in ((), (1, 30, 31, 90)):
        made = moments(features + 100.0, cuts)
        np.testing.assert_allclose(made.mean(), features.mean(axis=0) + 100.0)
        np.testing.assert_allclose(made.covariance(), np.cov(features, rowvar=False), atol=1e-9)


def test_distance_is_pytorch_fids():
    with np.load(Path(make_inception.__file__).with_name("inception.npz"), allow_pickle=False) as archive:
        expected = float(archive["distance"])
    assert frechet_distance(*map(moments, make_inception.samples())) == pytest.approx(expected, rel=1e-8)


def test_live():
    pytest.importorskip("pytorch_fid")
    assert frechet_distance(*map(moments, make_inception.samples())) == pytest.approx(
        make_inception.reference_distance(), rel=1e-8
    )


def test_distance_by_hand():
    """Independent dimensions: the sum of `(m - m')^2 + (s - s')^2`."""
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(1000, 3))
    unit = (unit - unit.mean(axis=0)) @ np.linalg.inv(scipy.linalg.sqrtm(np.cov(unit, rowvar=False)).real)
    distance = frechet_distance(moments(unit), moments(unit * [1.0, 2.0, 4.0] + [0.0, 0.0, 5.0]))
    assert distance == pytest.approx(1.0 + 9.0 + 25.0)


def test_equal_and_degenerate_distributions():
    """Fewer samples than features, as of a small data set: the covariance has no full rank."""
    few = np.random.default_rng(0).normal(size=(5, 40))
    assert frechet_distance(moments(few), moments(few)) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(moments(few), moments(few + 1.0)) == pytest.approx(40.0)


def test_a_single_sample():
    one = np.ones((1, 4))
    with pytest.raises(ValueError, match="1 samples: expected at least two"):
        frechet_distance(moments(one), moments(one))
