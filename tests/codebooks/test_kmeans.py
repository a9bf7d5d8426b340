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


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.system) for seed in (1, 2))])
@pytest.mark.system
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


@pytest.mark.parametrize("num_distinct", [1, 5])
def test_kmeans_parallel_of_few_distinct_points(num_distinct):
    distinct = small_points(num_distinct)
    seeds = kmeans.kmeans_parallel(jax.random.key(0), jnp.tile(distinct, (50 // num_distinct, 1)), 8)
    np.testing.assert_array_equal(np.unique(seeds, axis=0), np.unique(distinct, axis=0))


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
    points = jnp.tile(distinct, (50 // num_distinct, 1))
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
    kmeans._kmeans.clear_cache()
    assert int(info.num_reseeded) >= 3
    assert int(info.num_empty) == 0
    assert len(np.unique(kmeans.assign(codebook, points))) == 8
    assert float(info.mean_squared_distance) < 0.6 * squared_distances(points, start[:5]).min(axis=1).mean()


@pytest.mark.system
def test_iterations_never_increase_the_error():
    points = small_points(2000)
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


SEEDINGS = pytest.mark.parametrize("seeding", [kmeans.kmeans_plus_plus, kmeans.kmeans_parallel])


@SEEDINGS
def test_seeds_are_distinct_points(seeding):
    points = small_points()
    seeds = seeding(jax.random.key(0), points, 16)
    assert len(np.unique(seeds, axis=0)) == 16
    assert (np.asarray(seeds)[:, None] == np.asarray(points)[None]).all(axis=2).any(axis=1).all()


@SEEDINGS
def test_seeds_follow_the_squared_distance(seeding):
    # One far point in a thousand: uniform seeds would miss it 98 times in 100.
    points = 0.01 * small_points(1000)
    points = points.at[123].set(50.0)
    seeds = seeding(jax.random.key(0), points, 2)
    assert (np.asarray(seeds) == 50.0).any()


@pytest.mark.system
def test_weights_stand_for_repeated_points():
    points, weights = jnp.array([[0.0], [1.0], [10.0]]), jnp.array([1.0, 60.0, 2.0])
    repeated = jnp.repeat(points, weights.astype(int), axis=0)
    keys = jax.random.split(jax.random.key(0), 1000)
    weighted = jax.vmap(lambda key: kmeans.kmeans_plus_plus(key, points, 2, weights))(keys)
    plain = jax.vmap(lambda key: kmeans.kmeans_plus_plus(key, repeated, 2))(keys)
    for seeds in (weighted, plain):  # the first by weight, within 4 standard errors
        assert np.mean(np.asarray(seeds)[:, 0, 0] == 1.0) == pytest.approx(60 / 63, abs=0.027)
        assert np.mean((np.asarray(seeds) == 10.0).any(axis=(1, 2))) > 0.99


def test_a_point_without_weight_is_no_seed():
    points = small_points(50).at[7].set(100.0)
    seeds = kmeans.kmeans_plus_plus(jax.random.key(0), points, 20, jnp.ones(50).at[7].set(0.0))
    assert not (np.asarray(seeds) == 100.0).any()


@pytest.mark.system
def test_both_seedings_end_at_the_same_error(monkeypatch):
    points = small_points(8192, dim=3)  # a shape that no other test has compiled
    direct, parallel = (seeding(jax.random.key(0), points, 256) for seeding in SEEDINGS.args[1])
    seed_errors = [float(jnp.mean(kmeans.nearest(seeds, points)[1] ** 2)) for seeds in (direct, parallel)]
    assert seed_errors[1] < 1.1 * seed_errors[0]
    drawn = points[jax.random.choice(jax.random.key(0), 8192, (256,), replace=False)]
    assert seed_errors[1] < 0.85 * float(jnp.mean(kmeans.nearest(drawn, points)[1] ** 2))
    _, info = kmeans.kmeans(jax.random.key(0), points, 256)
    monkeypatch.setattr(kmeans, "_MAX_DIRECT", 0)
    kmeans._kmeans.clear_cache()
    _, from_parallel = kmeans.kmeans(jax.random.key(0), points, 256)
    kmeans._kmeans.clear_cache()
    assert float(from_parallel.mean_squared_distance) == pytest.approx(float(info.mean_squared_distance), rel=0.01)
    assert float(from_parallel.mean_squared_distance) != float(info.mean_squared_distance)


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
    with pytest.raises(ValueError, match=r"points have shape \(300, 2, 1\): expected \(n, d\)"):
        kmeans.kmeans(jax.random.key(0), small_points()[..., None], 4)


def test_points_far_from_the_origin_keep_their_cells():
    points = np.random.default_rng(0).normal(size=(50_000, 2)).astype(np.float32)
    far = points + np.float32(1000)
    codebook, info = kmeans.kmeans(jax.random.key(0), jnp.asarray(far), 8)
    near = (np.asarray(far, np.float64) - 1000).astype(np.float32)  # the same points after the rounding of the sum
    _, expected = kmeans.kmeans(jax.random.key(0), jnp.asarray(near), 8)
    assert float(info.mean_squared_distance) == pytest.approx(float(expected.mean_squared_distance), rel=0.01)
    indices = np.asarray(kmeans.assign(codebook, jnp.asarray(far)))
    exact = np.stack([far[indices == i].mean(axis=0, dtype=np.float64) for i in range(8)])
    np.testing.assert_allclose(codebook, exact, atol=0.02)


@pytest.mark.parametrize("offset", [0.0, 3.3])
def test_it_stops_where_points_are_fewer_than_codes(offset):
    distinct = offset + small_points(10, dim=3)
    codebook, info = kmeans.kmeans(jax.random.key(0), jnp.tile(distinct, (10, 1)), 32)
    assert int(info.num_iterations) < 10
    assert float(info.mean_squared_distance) == 0
    np.testing.assert_array_equal(np.unique(codebook, axis=0), np.unique(distinct, axis=0))


@pytest.mark.parametrize("exponent", [-110, -70, 70, 120])
def test_points_of_any_magnitude(exponent):
    points, scale = small_points(), np.float32(2.0**exponent)
    codebook, _ = kmeans.kmeans(jax.random.key(0), points, 8)
    scaled, _ = kmeans.kmeans(jax.random.key(0), points * scale, 8)
    np.testing.assert_array_equal(scaled / scale, codebook)
    np.testing.assert_array_equal(kmeans.assign(scaled, points * scale), kmeans.assign(codebook, points))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_points_that_are_not_finite_are_refused_with_their_number(bad):
    points = small_points().at[3, 1].set(bad).at[7].set(bad)
    with pytest.raises(ValueError, match="2 of 300 points are not finite"):
        kmeans.kmeans(jax.random.key(0), points, 4)
    with pytest.raises(ValueError, match="2 of 300 latents are not finite"):
        kmeans.assign(small_points(4), points.reshape(3, 100, 2))
    with pytest.raises(ValueError, match="1 of 4 codes are not finite"):
        kmeans.assign(small_points(4).at[2, 0].set(bad), small_points())
    # Traced arrays have no values to look at.
    info = jax.jit(lambda points: kmeans.kmeans(jax.random.key(0), points, 4)[1])(points)
    assert np.isnan(info.mean_squared_distance)
    np.testing.assert_array_equal(jax.jit(kmeans.assign)(small_points(4), points)[jnp.array([3, 7])], 0)


def test_a_constant_inside_a_transformation_is_not_looked_at():
    points = small_points()
    found = jax.jit(lambda codebook: kmeans.assign(codebook, points))(points[:4])
    np.testing.assert_array_equal(found, kmeans.assign(points[:4], points))


def test_64_bit_mode_changes_nothing():
    points = small_points()
    expected = kmeans.kmeans(jax.random.key(0), points, 8)
    with jax.enable_x64(True):
        found = kmeans.kmeans(jax.random.key(0), points, 8)
        wide = kmeans.kmeans(jax.random.key(0), np.asarray(points, np.float64), 8)
        seeds = kmeans.kmeans_parallel(jax.random.key(0), points, 8)
        indices = kmeans.assign(found[0], np.asarray(points, np.float64))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    jax.tree.map(np.testing.assert_array_equal, wide, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves((found, seeds))} == {jnp.dtype("float32"), jnp.dtype("int32")}
    np.testing.assert_array_equal(indices, kmeans.assign(expected[0], points))
