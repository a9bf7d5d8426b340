import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.codebooks import kmeans


def squared_distances(points, codebook):
    """(n, K) in float64."""
    points, codebook = np.asarray(points, np.float64), np.asarray(codebook, np.float64)
    return (points**2).sum(1)[:, None] - 2 * points @ codebook.T + (codebook**2).sum(1)


def small_points(n=300, dim=2, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, dim)), jnp.float32)


@pytest.mark.parametrize("seed", range(3))
def test_distortion_on_normal_latents(seed):
    points_key, key = jax.random.split(jax.random.key(seed))
    points = jax.random.normal(points_key, (12_288, 3))
    codebook, info = kmeans.kmeans(key, points, 256)
    assert (codebook.shape, codebook.dtype) == ((256, 3), jnp.float32)
    exact = squared_distances(points, codebook).min(axis=1).mean()
    # For E|x|^2 = 3; that of 12,288 draws strays by 1 to 2 %, and the error with it.
    assert exact <= 0.1155 * float((points**2).sum(axis=1).mean()) / 3
    assert float(info.mean_squared_distance) == pytest.approx(exact, rel=1e-5)
    assert int(info.num_empty) == 0
    assert 1 < int(info.num_iterations) <= 100


def test_deterministic_in_the_key():
    points = small_points()
    first, again, other = (kmeans.kmeans(jax.random.key(seed), points, 16)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", range(3))
def test_separated_clusters_are_recovered_exactly(seed):
    centers = 10.0 * np.stack(np.meshgrid(*[np.arange(3.0)] * 2), -1).reshape(9, 2)
    label = np.repeat(np.arange(9), np.arange(9) + 5)  # 5 to 13 points each
    points = centers[label] + 0.1 * small_points(81, seed=seed)
    codebook, info = kmeans.kmeans(jax.random.key(seed), points, 9)
    expected = np.stack([np.asarray(points)[label == i].mean(axis=0) for i in range(9)])
    found_label = np.asarray(kmeans.assign(jnp.asarray(expected), codebook))
    assert sorted(found_label) == list(range(9))
    np.testing.assert_allclose(codebook, expected[found_label], atol=1e-5)
    assert int(info.num_empty) == 0


def test_as_many_codes_as_points_leave_no_error():
    points = small_points(50)
    codebook, info = kmeans.kmeans(jax.random.key(0), points, 50)
    assert float(info.mean_squared_distance) == 0
    np.testing.assert_array_equal(np.unique(codebook, axis=0), np.unique(points, axis=0))


def test_one_code_is_the_mean():
    points = small_points()
    codebook, _ = kmeans.kmeans(jax.random.key(0), points, 1)
    np.testing.assert_allclose(codebook, points.mean(axis=0)[None], atol=1e-5)


@pytest.mark.parametrize("num_distinct", [1, 5])
def test_codes_beyond_the_distinct_points_are_reported_empty(num_distinct):
    distinct = small_points(num_distinct)
    points = jnp.tile(distinct, (10, 1))
    codebook, info = kmeans.kmeans(jax.random.key(0), points, 8)
    assert int(info.num_empty) == 8 - num_distinct
    assert np.isfinite(codebook).all()
    assert float(info.mean_squared_distance) < 1e-10
    np.testing.assert_allclose(codebook[kmeans.assign(codebook, distinct)], distinct, atol=1e-5)


def test_reseed_gives_empty_clusters_the_farthest_members_of_the_largest():
    points = jnp.array([[0.0], [1.0], [5.0], [20.0], [22.0], [40.0]])
    indices = jnp.array([1, 1, 1, 3, 3, 4])
    means = jnp.array([[0.0], [2.0], [0.0], [21.0], [40.0]])  # clusters 0 and 2 have lost their points
    counts = jnp.array([0.0, 3.0, 0.0, 2.0, 1.0])
    distances = jnp.abs(points - means[indices])[:, 0].at[4].set(1.5)  # no tie in cluster 3
    codebook, num_empty = kmeans._reseed_empty(means, counts, points, indices, distances)
    np.testing.assert_array_equal(codebook, [[5.0], [2.0], [22.0], [21.0], [40.0]])
    assert int(num_empty) == 2


def test_reseed_leaves_clusters_with_points_alone():
    points, indices = jnp.array([[0.0], [1.0]]), jnp.array([0, 1])
    codebook, num_empty = kmeans._reseed_empty(points + 0.1, jnp.ones(2), points, indices, jnp.full(2, 0.1))
    np.testing.assert_array_equal(codebook, points + 0.1)
    assert int(num_empty) == 0


def test_clusters_that_start_empty_are_used_in_the_end(monkeypatch):
    points = small_points(311)  # a shape that no other test has compiled
    start = jnp.concatenate([points[:5], jnp.full((3, 2), 1e3) + jnp.arange(3.0)[:, None]])
    monkeypatch.setattr(kmeans, "kmeans_plus_plus", lambda key, points, num_codes: start)
    codebook, info = kmeans.kmeans(jax.random.key(0), points, 8)
    assert int(info.num_reseeded) >= 3
    assert int(info.num_empty) == 0
    assert len(np.unique(kmeans.assign(codebook, points))) == 8
    assert float(info.mean_squared_distance) < 0.6 * squared_distances(points, start[:5]).min(axis=1).mean()


def test_iterations_never_increase_the_error():
    points = small_points()
    # A lower tolerance only prolongs the same run.
    fits = [kmeans.kmeans(jax.random.key(0), points, 16, tolerance=value)[1] for value in (1e3, 0.3, 0.1, 0.03, 0.0)]
    errors = [squared_distances(points, kmeans.kmeans_plus_plus(jax.random.key(0), points, 16)).min(axis=1).mean()]
    errors += [float(info.mean_squared_distance) for info in fits]
    lengths = [int(info.num_iterations) for info in fits]
    assert lengths[0] == 1
    assert len(set(lengths)) >= 4
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(errors))
    assert errors[0] > 1.1 * errors[-1]


def test_iterations_are_bounded():
    _, info = kmeans.kmeans(jax.random.key(0), small_points(), 16, max_iterations=2, tolerance=0.0)
    assert int(info.num_iterations) == 2


def test_seeds_are_distinct_points():
    points = small_points()
    seeds = kmeans.kmeans_plus_plus(jax.random.key(0), points, 16)
    assert len(np.unique(seeds, axis=0)) == 16
    assert (np.asarray(seeds)[:, None] == np.asarray(points)[None]).all(axis=2).any(axis=1).all()


def test_seeds_follow_the_squared_distance():
    # One far point in a thousand: uniform seeds would miss it 98 times in 100.
    points = 0.01 * small_points(1000)
    points = points.at[123].set(50.0)
    seeds = kmeans.kmeans_plus_plus(jax.random.key(0), points, 2)
    assert (np.asarray(seeds) == 50.0).any()


def test_assign_gives_each_code_its_own_index():
    codebook = small_points(64, dim=5)
    indices = kmeans.assign(codebook, codebook)
    assert indices.dtype == jnp.int32
    np.testing.assert_array_equal(indices, np.arange(64))


def test_assign_takes_any_leading_shape_and_the_nearest_code():
    codebook, z = small_points(16), small_points(24, seed=1)
    indices = kmeans.assign(codebook, z.reshape(2, 3, 4, 2))
    assert indices.shape == (2, 3, 4)
    np.testing.assert_array_equal(indices.ravel(), squared_distances(z, codebook).argmin(axis=1))


def test_bfloat16_points_give_float32_codes():
    codebook, info = kmeans.kmeans(jax.random.key(0), small_points().astype(jnp.bfloat16), 4)
    assert codebook.dtype == info.mean_squared_distance.dtype == jnp.float32


@pytest.mark.parametrize("num_codes", [0, 301])
def test_impossible_number_of_codes_raises(num_codes):
    with pytest.raises(ValueError, match=f"300 latents cannot make a codebook of {num_codes} codes"):
        kmeans.kmeans(jax.random.key(0), small_points(), num_codes)


def test_points_of_a_wrong_shape_raise():
    with pytest.raises(ValueError, match=r"points have shape \(300, 2, 1\), expected \(n, d\)"):
        kmeans.kmeans(jax.random.key(0), small_points()[..., None], 4)
