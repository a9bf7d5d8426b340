import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax import neighbors
from vpvae_jax.neighbors.cpu.kd_tree import KDTree
from vpvae_jax.neighbors.xla import query_chunks, tiles

RANKS = (8, 48)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 8 samples, 2 a round and chunks of some queries, so that small inputs take several of each."""
    monkeypatch.setattr(tiles, "_TILE", 8)
    monkeypatch.setattr(tiles, "_TILES_PER_ROUND", 2)
    monkeypatch.setattr(query_chunks, "MAX_ELEMENTS", 4_000)


def draw(num, dim, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num, dim)), jnp.float32)


def assert_exact(samples, queries, ranks=RANKS):
    expected = KDTree(np.asarray(samples)).distances(np.asarray(queries), np.array(ranks))
    np.testing.assert_allclose(tiles.neighbor_distances(samples, queries, ranks), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "dim", [pytest.param(dim, marks=[] if dim == 5 else pytest.mark.system) for dim in (1, 2, 3, 4, 5, 8, 16)]
)
def test_every_dimension(small_tiles, dim):
    assert_exact(draw(600, dim), draw(37, dim, seed=1))


@pytest.mark.parametrize("num_samples", [65, *(pytest.param(num, marks=pytest.mark.system) for num in (48, 1000))])
def test_numbers_of_samples_that_no_tile_divides(small_tiles, num_samples):
    # Away from the origin a padding row, if it were zero, would be the farthest; near it the nearest.
    for shift in (0.0, 50.0):
        assert_exact(draw(num_samples, 3) + shift, draw(11, 3, seed=1) + shift)


@pytest.mark.system
def test_repeated_collinear_and_tied_samples(small_tiles):
    line = jnp.arange(200.0)[:, None] * jnp.array([[1.0, 2.0, -1.0]])
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(6.0)] * 3), axis=-1).reshape(-1, 3)
    for samples in (jnp.full((200, 3), 0.7), jnp.tile(draw(5, 3), (40, 1)), line, grid):
        assert_exact(samples, jnp.concatenate([samples[:9], samples[:9] + 0.5, draw(9, 3)]))


@pytest.mark.system
def test_far_queries_and_clusters(small_tiles):
    clusters = jnp.concatenate([0.01 * draw(300, 4) + center for center in (-5.0, 0.0, 7.0)])
    assert_exact(clusters, jnp.concatenate([clusters[::50], 100 * draw(9, 4)]))


def test_a_query_that_is_not_finite_gets_nan_and_spoils_no_other(small_tiles):
    samples, queries = draw(300, 3), draw(20, 3, seed=1)
    found = tiles.neighbor_distances(samples, queries.at[4, 1].set(jnp.nan).at[5, 0].set(jnp.inf), RANKS)
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), np.isin(np.arange(20), [4, 5]))
    expected = tiles.neighbor_distances(samples, queries, RANKS)
    np.testing.assert_array_equal(found[6:], expected[6:])


@pytest.mark.system
def test_most_samples_are_never_looked_at(monkeypatch):
    """The rounds that 65,536 samples take, from a search that is allowed as many rounds as it wants."""
    samples, queries = draw(65_536, 4), draw(200, 4, seed=1)
    rounds = []
    top_k = jax.lax.top_k

    def counted(values, k):
        jax.debug.callback(lambda: rounds.append(1))
        return top_k(values, k)

    monkeypatch.setattr(jax.lax, "top_k", counted)
    assert_exact(samples, queries)
    jax.effects_barrier()
    assert rounds
    num_scanned = len(rounds) / 2 * tiles._TILES_PER_ROUND * tiles._TILE  # two selections a round
    assert num_scanned < 0.15 * len(samples)


def test_the_whole_matrix_of_distances_never_exists():
    samples, queries = draw(100_000, 3), draw(2_000, 3, seed=1)
    compiled = jax.jit(lambda s, q: tiles.neighbor_distances(s, q, RANKS)).lower(samples, queries).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * 4 * 100_000 * 2_000


@pytest.mark.system
def test_vmap_over_memories(small_tiles):
    samples, queries = draw(3 * 200, 2).reshape(3, 200, 2), draw(3 * 7, 2, seed=1).reshape(3, 7, 2)
    found = jax.vmap(lambda s, q: tiles.neighbor_distances(s, q, RANKS))(samples, queries)
    for i in range(3):
        np.testing.assert_allclose(found[i], tiles.neighbor_distances(samples[i], queries[i], RANKS), rtol=1e-6)


@pytest.mark.parametrize(("num_samples", "dim", "is_tiled"), [(8_192, 5, True), (8_191, 5, False), (8_192, 6, False)])
def test_other_platforms_than_cpu_take_tiles_where_they_prune(num_samples, dim, is_tiled):
    search = jax.jit(lambda s, q: neighbors.neighbor_distances(s, q, RANKS))
    lowered = search.trace(draw(num_samples, dim), draw(100, dim)).lower(lowering_platforms=("cuda",))
    assert ("@argsort" in lowered.as_text()) == is_tiled


@pytest.mark.system
def test_a_million_samples():
    assert_exact(draw(1_000_003, 5), draw(300, 5, seed=1))
