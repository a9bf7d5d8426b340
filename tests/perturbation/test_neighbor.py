import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.neighbors import neighbor_at_rank
from vpvae_jax.neighbors.xla import brute_force
from vpvae_jax.perturbation.neighbor import perturb_to_neighbor


@pytest.mark.parametrize("search", [neighbor_at_rank, brute_force.neighbor_at_rank])
@pytest.mark.parametrize(
    ("num_samples", "num_queries", "dim"),
    [(500, 37, 1), pytest.param(20_000, 900, 3, marks=pytest.mark.system), (64, 5, 7)],
)
def test_neighbor_at_rank_against_a_full_sort(search, num_samples, num_queries, dim):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(num_samples, dim)).astype(np.float32)
    queries = rng.normal(size=(num_queries, dim)).astype(np.float32)
    ranks = rng.integers(1, 33, num_queries)
    distances = np.linalg.norm(queries[:, None].astype(np.float64) - samples[None], axis=2)
    found = search(jnp.asarray(samples), jnp.asarray(queries), jnp.asarray(ranks), 32)
    assert found.dtype == jnp.int32
    expected = np.sort(distances, axis=1)[np.arange(num_queries), ranks - 1]
    np.testing.assert_allclose(distances[np.arange(num_queries), found], expected, rtol=1e-5)


def test_rank_above_the_samples():
    with pytest.raises(ValueError, match="neighbour rank 6 does not exist among 5 samples"):
        neighbor_at_rank(jnp.zeros((5, 2)), jnp.zeros((3, 2)), jnp.ones(3, jnp.int32), 6)


def test_moves_end_on_members_drawn_uniformly_from_the_nearest():
    samples = jax.random.normal(jax.random.key(0), (2048, 3))
    z = jax.random.normal(jax.random.key(1), (4096, 3))
    z_tilde, info = perturb_to_neighbor(jax.random.key(2), samples, z, k_radius=16)
    np.testing.assert_allclose(z_tilde, samples[info.neighbor], atol=1e-5)
    counts = np.bincount(info.rank, minlength=17)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 4096, 1 / 16, atol=0.015)


def test_latents_that_are_not_finite_are_counted_and_stay():
    samples = jax.random.normal(jax.random.key(0), (256, 2))
    z = jax.random.normal(jax.random.key(1), (64, 2)).at[3, 1].set(jnp.nan)
    z_tilde, info = perturb_to_neighbor(jax.random.key(2), samples.at[0].set(jnp.inf), z, k_radius=8)
    assert int(info.num_not_finite) == 2
    np.testing.assert_array_equal(z_tilde[3], z[3])


def test_eta_scales_the_move_and_the_gradient_is_the_identity():
    samples = jax.random.normal(jax.random.key(0), (256, 2))
    z = jax.random.normal(jax.random.key(1), (64, 2))
    full, _ = perturb_to_neighbor(jax.random.key(2), samples, z, k_radius=8)
    half, _ = perturb_to_neighbor(jax.random.key(2), samples, z, k_radius=8, eta=0.5)
    np.testing.assert_allclose(half - z, 0.5 * (full - z), atol=1e-6)
    gradient = jax.grad(lambda z: perturb_to_neighbor(jax.random.key(2), samples, z, k_radius=8)[0].sum())(z)
    np.testing.assert_array_equal(gradient, 1)


def test_mean_squared_move_is_that_of_a_ball_of_constant_density():
    samples = jax.random.uniform(jax.random.key(0), (65_536, 2))
    z = 0.2 + 0.6 * jax.random.uniform(jax.random.key(1), (8192, 2))
    z_tilde, _ = perturb_to_neighbor(jax.random.key(2), samples, z, k_radius=64)
    squared_radius = 64 / 65_536 / np.pi  # of a disc with 64 of the points
    expected = 2 / (2 + 2) * squared_radius
    assert float(jnp.sum((z_tilde - z) ** 2, axis=1).mean()) == pytest.approx(expected, rel=0.03)
