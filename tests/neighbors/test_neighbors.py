import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax import neighbors
from vpvae_jax.neighbors.cpu import kd_tree, tree
from vpvae_jax.neighbors.xla import brute_force, query_chunks, tiles

DISTANCE_BACKENDS = pytest.mark.parametrize(
    "backend", [tree, brute_force, tiles, neighbors], ids=["tree", "brute_force", "tiles", "public"]
)
BACKENDS = pytest.mark.parametrize("backend", [tree, brute_force, neighbors], ids=["tree", "brute_force", "public"])


def all_distances(samples, queries):
    """(num_queries, num_samples) distances in float64."""
    samples, queries = np.asarray(samples, np.float64), np.asarray(queries, np.float64)
    return np.linalg.norm(queries[:, None] - samples[None], axis=-1)


def oracle(samples, queries, ranks):
    return np.sort(all_distances(samples, queries), axis=1)[:, [rank - 1 for rank in ranks]]


def draw(num_samples, num_queries, dim, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(n, dim)), jnp.float32) for n in (num_samples, num_queries))


def assert_distances_match(backend, samples, queries, ranks):
    found = backend.neighbor_distances(samples, queries, ranks)
    assert found.shape == (queries.shape[0], len(ranks))
    assert found.dtype == jnp.float32
    # Element-wise and with no absolute slack: a distance of 0 has to be 0.
    np.testing.assert_allclose(found, oracle(samples, queries, ranks), rtol=1e-6, atol=0)


def assert_nearest_match(backend, samples, queries):
    indices, distances = backend.nearest(samples, queries)
    assert (indices.dtype, distances.dtype) == (jnp.int32, jnp.float32)
    exact = all_distances(samples, queries)
    np.testing.assert_allclose(distances, exact.min(axis=1), rtol=1e-6, atol=0)
    # Of tied samples any may be named, so the named one is judged by its distance.
    named = np.take_along_axis(exact, np.asarray(indices)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(named, exact.min(axis=1), rtol=1e-6, atol=0)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16 samples and 4 queries, so that small inputs take several of each."""
    monkeypatch.setattr(brute_force, "_MAX_SAMPLE_TILE", 16)
    monkeypatch.setattr(query_chunks, "MAX_ELEMENTS", 64)


@pytest.mark.parametrize("backend", [tree, brute_force, tiles], ids=["tree", "brute_force", "tiles"])
@pytest.mark.parametrize("dim", [1, 3, 5, 16])  # the kernels of the tree are tested in more, without XLA
def test_distances_match_float64_oracle(backend, dim):
    samples, queries = draw(67, 13, dim, seed=dim)
    assert_distances_match(backend, samples, queries, (1, 8, 48))


@DISTANCE_BACKENDS
@pytest.mark.parametrize("ranks", [(40, 1, 7, 7), np.array([53, 2])], ids=str)
def test_ranks_come_back_in_the_order_asked_up_to_all_samples(backend, ranks):
    assert_distances_match(backend, *draw(53, 5, 3), ranks)


@DISTANCE_BACKENDS
def test_close_points_far_from_the_origin_keep_their_precision(backend):
    samples, queries = draw(64, 9, 4)
    assert_distances_match(backend, 1000 + 0.01 * samples, 1000 + 0.01 * queries, (1, 5))


@BACKENDS
def test_a_sample_is_its_own_neighbour_and_every_duplicate_counts(backend):
    base, _ = draw(20, 1, 3)
    samples = jnp.concatenate([base, base, base])
    found = np.asarray(backend.neighbor_distances(samples, base, (1, 3, 4)))
    assert (found[:, :2] == 0).all()
    assert (found[:, 2] > 0).all()
    assert_distances_match(backend, samples, base, (1, 3, 4, 60))
    assert_nearest_match(backend, samples, base)


@BACKENDS
def test_all_equal_samples(backend):
    samples = jnp.full((40, 3), 0.7)
    queries = jnp.array([[0.7, 0.7, 0.7], [1.0, -2.0, 0.5]])
    assert_distances_match(backend, samples, queries, (1, 20, 40))
    assert_nearest_match(backend, samples, queries)


@BACKENDS
def test_collinear_and_tied_samples(backend):
    line = jnp.arange(31.0)[:, None] * jnp.array([[1.0, 2.0, -1.0]])
    queries = jnp.concatenate([line[10:12], line[10:12] + 0.5 * (line[1] - line[0])])  # on samples and half-way
    assert_distances_match(backend, line, queries, (1, 2, 3, 4, 31))
    assert_nearest_match(backend, line, queries)


@pytest.mark.parametrize(("num_samples", "num_queries"), [(1, 4), (16, 11), (61, 11)])
@pytest.mark.usefixtures("small_tiles")
def test_brute_force_with_sizes_that_no_tile_divides(num_samples, num_queries):
    samples, queries = draw(num_samples, num_queries, 3)
    # Away from the origin a padding row, all zero, would be the farthest; near it the nearest.
    for shift in (0.0, 50.0):
        assert_distances_match(brute_force, samples + shift, queries + shift, (num_samples, 1))
        assert_nearest_match(brute_force, samples + shift, queries + shift)


@pytest.mark.usefixtures("small_tiles")
def test_brute_force_scans_in_tiles_of_bounded_size():
    samples, queries = draw(61, 11, 3)
    text = str(jax.make_jaxpr(lambda s, q: brute_force.neighbor_distances(s, q, (20,)))(samples, queries))
    assert "f32[4,16]" in text  # a tile of distances
    assert "f32[11,61]" not in text  # the whole matrix


def test_brute_force_takes_the_first_of_tied_samples_across_tiles(small_tiles):
    samples = jnp.zeros((50, 2)).at[:3].set(9.0)
    indices, _ = brute_force.nearest(samples, jnp.zeros((6, 2)))
    np.testing.assert_array_equal(indices, 3)


@BACKENDS
@pytest.mark.parametrize("dim", [1, 5])
def test_nearest_agrees_with_oracle_indices(backend, dim):
    samples, queries = draw(200, 40, dim)
    np.testing.assert_array_equal(backend.nearest(samples, queries)[0], all_distances(samples, queries).argmin(axis=1))
    assert_nearest_match(backend, samples, queries)


BAD = np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32)


@DISTANCE_BACKENDS
def test_a_query_that_is_not_finite_gets_nan_and_spoils_no_other(backend):
    samples, queries = draw(30, 9, 3)
    spoilt = queries.at[2:6, 1].set(BAD)
    found = np.asarray(backend.neighbor_distances(samples, spoilt, (1, 4)))
    others = np.array([0, 1, 6, 7, 8])
    np.testing.assert_allclose(found[others], oracle(samples, queries, (1, 4))[others], rtol=1e-6)
    assert np.isnan(found[2:6]).all()


@BACKENDS
def test_nearest_of_a_query_that_is_not_finite_is_index_0_and_nan(backend):
    samples, queries = draw(30, 9, 3)
    indices, distances = backend.nearest(samples, queries.at[2:6, 1].set(BAD))
    np.testing.assert_array_equal(indices[2:6], 0)
    np.testing.assert_array_equal(np.isnan(distances), np.isin(np.arange(9), [2, 3, 4, 5]))


@BACKENDS
def test_neighbor_at_rank_of_a_query_that_is_not_finite_is_index_0(backend):
    samples, queries = draw(30, 9, 3)
    ranks = jnp.array([1, 4, 3, 2, 4, 4, 2, 3, 4])
    expected = all_distances(samples, queries).argsort(axis=1)[np.arange(9), ranks - 1]
    assert (expected[[3, 5]] != 0).all()
    expected[2:6] = 0
    spoilt = queries.at[2:6, 1].set(BAD)
    np.testing.assert_array_equal(backend.neighbor_at_rank(samples, spoilt, ranks, 4), expected)


def test_samples_that_are_not_finite_give_nan_on_the_host_and_spoil_no_later_call():
    samples, queries = draw(30, 6, 3)
    for spoilt in (samples.at[3, 1].set(jnp.nan), samples.at[:].set(jnp.inf)):
        assert np.isnan(tree.neighbor_distances(spoilt, queries, (1, 4))).all()
        assert np.isnan(tree.nearest(spoilt, queries)[1]).all()
        assert np.isnan(tree.neighbor_distances_along(spoilt, queries, queries, (1, 4))[2]).all()
        assert_distances_match(tree, samples, queries, (1, 4))


@BACKENDS
def test_no_queries_give_no_distances(backend):
    samples, queries = draw(30, 0, 3)
    assert backend.neighbor_distances(samples, queries, (1, 4)).shape == (0, 2)
    assert [array.shape for array in backend.nearest(samples, queries)] == [(0,), (0,)]


@pytest.mark.parametrize("search", [lambda s, q: neighbors.neighbor_distances(s, q, (1,)), neighbors.nearest])
@pytest.mark.parametrize(
    ("samples", "queries", "message"),
    [
        ((5, 3), (4, 2), r"samples \(5, 3\) and queries \(4, 2\) do not match"),
        ((5,), (4, 2), r"samples \(5,\) and queries"),
        ((5, 3), (2, 4, 3), r"queries \(2, 4, 3\) do not match"),
        ((0, 3), (4, 3), "there are no samples"),
    ],
)
def test_bad_shapes_raise(search, samples, queries, message):
    with pytest.raises(ValueError, match=message):
        search(jnp.zeros(samples), jnp.zeros(queries))


@pytest.mark.parametrize("rank", [0, -1, 6])
def test_bad_ranks_raise(rank):
    with pytest.raises(ValueError, match=rf"neighbour rank {rank} does not exist among 5 samples: use ranks 1\.\.5"):
        neighbors.neighbor_distances(jnp.zeros((5, 2)), jnp.zeros((1, 2)), (1, rank))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_other_dtypes_are_computed_in_float32(dtype):
    samples, queries = (10 * array for array in draw(30, 6, 3))
    samples, queries = samples.astype(dtype), queries.astype(dtype)
    exact_inputs = (samples.astype(jnp.float32), queries.astype(jnp.float32))
    found = neighbors.neighbor_distances(samples, queries, (1, 4))
    np.testing.assert_allclose(found, oracle(*exact_inputs, (1, 4)), rtol=1e-6)


@DISTANCE_BACKENDS
def test_jit_equals_eager(backend):
    samples, queries = draw(40, 7, 3)
    jitted = jax.jit(lambda s, q: backend.neighbor_distances(s, q, (1, 9)))(samples, queries)
    np.testing.assert_allclose(jitted, backend.neighbor_distances(samples, queries, (1, 9)), rtol=1e-6)


@BACKENDS
def test_vmap_over_samples_and_queries(backend):
    samples, queries = draw(3 * 40, 3 * 7, 2)
    samples, queries = samples.reshape(3, 40, 2), queries.reshape(3, 7, 2)
    found = jax.vmap(lambda s, q: backend.neighbor_distances(s, q, (1, 9)))(samples, queries)
    indices, _ = jax.vmap(backend.nearest)(samples, queries)
    for i in range(3):
        np.testing.assert_allclose(found[i], oracle(samples[i], queries[i], (1, 9)), rtol=1e-6)
        np.testing.assert_array_equal(indices[i], all_distances(samples[i], queries[i]).argmin(axis=1))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_no_gradient_flows_through_the_search(transform):
    samples, queries = draw(40, 7, 3)

    def weighted(s, q):
        distances = neighbors.neighbor_distances(s, q, (1, 9)).sum() + neighbors.nearest(s, q)[1].sum()
        return distances * q.sum()  # the factor keeps its gradient

    to_samples, to_queries = transform(jax.grad(weighted, argnums=(0, 1)))(samples, queries)
    total = oracle(samples, queries, (1, 9)).sum() + oracle(samples, queries, (1,)).sum()
    np.testing.assert_array_equal(to_samples, 0)
    np.testing.assert_allclose(to_queries, total, rtol=1e-5)


@DISTANCE_BACKENDS
@pytest.mark.parametrize("ranks", [(8, 48), (48, 8)], ids=str)
def test_distances_along_equal_two_searches(backend, ranks):
    samples, queries = draw(300, 20, 3)
    _, steps = draw(1, 20, 3, seed=1)
    distances, moved, moved_distances = backend.neighbor_distances_along(samples, queries, steps, ranks)
    exact = oracle(samples, queries, ranks)
    np.testing.assert_allclose(distances, exact, rtol=1e-6)
    np.testing.assert_allclose(moved, queries + exact[:, -1:] * steps, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moved_distances, oracle(samples, moved, ranks), rtol=1e-6)


def test_tree_notices_that_the_samples_changed():
    samples, queries = draw(40, 7, 3)
    one_moved = samples.at[17, 0].add(1e-3)
    reordered = samples[::-1]
    for current in (samples, one_moved, samples, reordered, samples[:20], samples):
        assert_distances_match(tree, current, queries, (1, 20))
        np.testing.assert_array_equal(tree.nearest(current, queries)[0], all_distances(current, queries).argmin(axis=1))


def test_tree_notices_a_change_in_place():
    samples, queries = (np.array(array) for array in draw(4096, 7, 3))
    assert_distances_match(neighbors, samples, queries, (1, 20))
    samples[:] += 5
    assert_distances_match(neighbors, samples, queries, (1, 20))


def test_tree_is_built_once_and_follows_small_changes(monkeypatch):
    builds = []
    build = kd_tree.KDTree._build
    monkeypatch.setattr(tree, "_trees", {})
    monkeypatch.setattr(kd_tree.KDTree, "_build", lambda self: builds.append(1) or build(self))
    samples, queries = draw(400, 7, 3)
    for row in range(3):
        samples = samples.at[row].add(0.1)
        assert_distances_match(tree, samples, queries, (1, 20))
    assert len(builds) == 1


def test_trees_of_few_shapes_are_kept(monkeypatch):
    monkeypatch.setattr(tree, "_trees", {})
    for num_samples in range(20, 30):
        assert_distances_match(tree, *draw(num_samples, 7, 3), (1, 20))
    assert len(tree._trees) == tree._MAX_TREES


@DISTANCE_BACKENDS
def test_64_bit_mode_changes_nothing(backend):
    samples, queries = draw(40, 7, 3)
    expected = backend.neighbor_distances(samples, queries, (1, 9)), backend.nearest(samples, queries)
    with jax.enable_x64(True):
        found = backend.neighbor_distances(samples, queries, (1, 9)), backend.nearest(samples, queries)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)


def test_one_trace_per_shape():
    traces = []

    @jax.jit
    def search(samples, queries):
        traces.append(queries.shape)
        return neighbors.neighbor_distances(samples, queries, (1, 9))

    for seed in range(4):
        search(*draw(40, 7, 3, seed))
        search(*draw(40, 8, 3, seed))
    assert traces == [(7, 3), (8, 3)]


@pytest.mark.system
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot be bound to one core here")
def test_steps_on_one_core_do_not_wait_for_themselves():
    """JAX copies an array that starts at no 64-byte boundary in its only thread and may run the step there as well."""
    code = textwrap.dedent("""
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import jax, numpy as np
        from vpvae_jax import perturb
        buffer = np.random.default_rng(0).normal(size=3 * 16384 + 32).astype(np.float32)
        start = -buffer.ctypes.data % 64 // 4 + 4
        z = buffer[start:][: 3 * 16384].reshape(16384, 3)
        step = jax.jit(lambda key, z: perturb(key, z[:512], z, k_radius=16)[0])
        for i in range(30):
            moved = step(jax.random.key(i), z)
        assert np.isfinite(moved).all()
    """)
    environment = {key: value for key, value in os.environ.items() if key != "JAX_CPU_ENABLE_ASYNC_DISPATCH"}
    environment["JAX_PLATFORMS"] = "cpu"
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=100, check=True)
