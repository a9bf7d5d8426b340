import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vpvae_jax.quantizers import latent_norm
from vpvae_jax.quantizers.latent_norm import LatentNorm

PRESETS = {
    "none": (LatentNorm(mean_weight=0.0, variance_weight=0.0), 1.0),
    "none-var": (LatentNorm(), 1.0),
    "none-kurt": (LatentNorm(skewness_weight=0.06, kurtosis_weight=0.05), 1.0),
    "none-var_tanh": (LatentNorm(), 0.8225),
    "none-var_sigmoid": (LatentNorm(), 3.29),
    "none-var_laplace": (LatentNorm(), 2.0),
}
presets = pytest.mark.parametrize("preset", PRESETS)


@presets
def test_loss_matches_reference(golden, preset):
    norm, target_variance = PRESETS[preset]
    loss = norm.loss(jnp.asarray(golden[f"norm/{preset}/z"]), target_variance)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    np.testing.assert_allclose(loss, golden[f"norm/{preset}/loss"], rtol=1e-5)


@presets
def test_moments_match_reference(golden, preset):
    found = latent_norm.latent_moments(jnp.asarray(golden[f"norm/{preset}/z"]))
    expected = [golden[f"norm/{preset}/{name}"] for name in ("mean", "variance", "skewness", "kurtoses")]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_moments_match_float64_far_from_the_origin():
    z = jnp.asarray(100 + 0.1 * np.random.default_rng(0).gamma(2.0, size=(4000, 3)), jnp.float32)
    exact = np.asarray(z, np.float64)
    found = latent_norm.latent_moments(z)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.variance, exact.var(0, ddof=1), rtol=1e-3)
    np.testing.assert_allclose(found.skewness, stats.skew(exact), rtol=1e-2)
    np.testing.assert_allclose(found.kurtosis, stats.kurtosis(exact), rtol=1e-2)


class TestDistanceFromUniform:
    @staticmethod
    def mean_distance(u):
        keys = jax.random.split(jax.random.key(1), 20)
        return float(jax.vmap(lambda key: latent_norm.distance_from_uniform(key, u))(keys).mean())

    @pytest.mark.system
    def test_of_uniform_latents_is_zero_in_the_mean(self):
        u = jax.random.uniform(jax.random.key(0), (20, 1000, 3))
        distances = jax.vmap(latent_norm.distance_from_uniform)(jax.random.split(jax.random.key(1), 20), u)
        assert abs(float(distances.mean())) < 3 * float(distances.std()) / 20**0.5

    @pytest.mark.system
    def test_sees_dependence_that_correlation_does_not(self):
        u = jax.random.uniform(jax.random.key(0), (1000, 2))
        tent = jnp.stack([u[:, 0], 1 - jnp.abs(2 * u[:, 0] - 1)], axis=1)  # uniform margins, uncorrelated
        assert abs(np.corrcoef(tent.T)[0, 1]) < 0.1
        assert self.mean_distance(tent) > 10 * abs(self.mean_distance(u))

    @pytest.mark.system
    def test_descending_it_spreads_the_latents(self):
        u = 0.5 + 0.1 * jax.random.normal(jax.random.key(0), (256, 2))
        step = jax.jit(lambda key, u: u - 5.0 * jax.grad(latent_norm.distance_from_uniform, 1)(key, u))
        start = self.mean_distance(u)
        for i in range(200):
            u = jnp.clip(step(jax.random.key(i), u), 0, 1)
        assert self.mean_distance(u) < 0.05 * start

    @pytest.mark.system
    def test_cost_is_bounded(self):
        u = jax.random.uniform(jax.random.key(0), (3000, 2))
        assert (jax.grad(latent_norm.distance_from_uniform, 1)(jax.random.key(1), u) != 0).any(axis=1).sum() == 1024


def test_bfloat16_latents_are_measured_in_float32():
    z = jax.random.normal(jax.random.key(0), (512, 4)).astype(jnp.bfloat16)
    loss = LatentNorm().loss(z)
    assert loss.dtype == jnp.float32
    assert float(loss) == pytest.approx(float(LatentNorm().loss(z.astype(jnp.float32))))


def test_descending_the_loss_standardises_the_latents():
    z = 3 + 2 * jax.random.normal(jax.random.key(0), (512, 2))
    gradient = jax.jit(jax.grad(LatentNorm().loss))
    for _ in range(300):
        z = z - 200 * gradient(z)
    found = latent_norm.latent_moments(z)
    np.testing.assert_allclose(found.mean, 0, atol=1e-2)
    np.testing.assert_allclose(found.variance, 1, atol=1e-2)


def test_equal_latents_have_a_finite_gradient():
    gradient = jax.grad(LatentNorm().loss)(jnp.ones((8, 2)))
    np.testing.assert_allclose(gradient, 2 * 0.1 / 16, rtol=1e-6)


def test_a_dimension_without_variance_has_finite_gradients():
    gradient = jax.grad(LatentNorm(skewness_weight=0.06, kurtosis_weight=0.05).loss)(jnp.ones((8, 3)))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_weights_that_cannot_work_raise(weight):
    with pytest.raises(ValueError, match=rf"latent_norm\.variance_weight={weight}: expected 0 or more, 0 turns"):
        LatentNorm(variance_weight=weight)
