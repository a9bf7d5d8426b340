import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vpvae_jax.quantizers import moments

PRESETS = {
    "none": {"mean_weight": 0.0, "variance_weight": 0.0},
    "none-var": {},
    "none-kurt": {"skewness_weight": moments.SKEWNESS_WEIGHT, "kurtosis_weight": moments.KURTOSIS_WEIGHT},
    "none-var_tanh": {"target_variance": 0.8225},
    "none-var_sigmoid": {"target_variance": 3.29},
    "none-var_laplace": {"target_variance": 2.0},
}
presets = pytest.mark.parametrize("preset", PRESETS)


@presets
def test_loss_matches_reference(golden, preset):
    loss = moments.latent_norm_loss(jnp.asarray(golden[f"norm/{preset}/z"]), **PRESETS[preset])
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    np.testing.assert_allclose(loss, golden[f"norm/{preset}/loss"], rtol=1e-5)


@presets
def test_moments_match_reference(golden, preset):
    found = moments.latent_moments(jnp.asarray(golden[f"norm/{preset}/z"]))
    expected = [golden[f"norm/{preset}/{name}"] for name in ("mean", "variance", "skewness", "kurtoses")]
    for ours, theirs in zip(found[:4], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_moments_match_float64_far_from_the_origin():
    z = jnp.asarray(100 + 0.1 * np.random.default_rng(0).gamma(2.0, size=(4000, 3)), jnp.float32)
    exact = np.asarray(z, np.float64)
    found = moments.latent_moments(z)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.variance, exact.var(0, ddof=1), rtol=1e-3)
    np.testing.assert_allclose(found.skewness, stats.skew(exact), rtol=1e-2)
    np.testing.assert_allclose(found.kurtosis, stats.kurtosis(exact), rtol=1e-2)


def test_correlation_matches_numpy():
    z = np.random.default_rng(0).normal(size=(300, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.5, -1.0], [0.0, 0.0, 2.0]])
    found = moments.latent_moments(jnp.asarray(z, jnp.float32)).correlation
    np.testing.assert_allclose(found, np.corrcoef(z.T), atol=1e-5)


def test_correlation_term_is_the_mean_square_off_the_diagonal():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(200, 3)) @ np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]]))
    with_term = moments.latent_norm_loss(z, correlation_weight=0.5) - moments.latent_norm_loss(z)
    pairs = np.corrcoef(np.asarray(z).T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(with_term, 0.5 * np.mean(pairs**2), rtol=1e-4)
    assert moments.latent_norm_loss(z[:, :1], correlation_weight=0.5) == moments.latent_norm_loss(z[:, :1])


def test_descending_the_correlation_term_decorrelates():
    z = jax.random.normal(jax.random.key(0), (512, 2)) @ jnp.array([[1.0, 0.9], [0.0, 0.5]])
    assert abs(moments.latent_moments(z).correlation[0, 1]) > 0.8
    gradient = jax.jit(jax.grad(lambda z: moments.latent_norm_loss(z, correlation_weight=0.1)))
    for _ in range(300):
        z = z - 100 * gradient(z)
    assert abs(moments.latent_moments(z).correlation[0, 1]) < 0.02


def test_bfloat16_latents_are_measured_in_float32():
    z = jax.random.normal(jax.random.key(0), (512, 4)).astype(jnp.bfloat16)
    loss = moments.latent_norm_loss(z)
    assert loss.dtype == jnp.float32
    assert float(loss) == pytest.approx(float(moments.latent_norm_loss(z.astype(jnp.float32))))


def test_descending_the_loss_standardises_the_latents():
    z = 3 + 2 * jax.random.normal(jax.random.key(0), (512, 2))
    gradient = jax.jit(jax.grad(moments.latent_norm_loss))
    for _ in range(300):
        z = z - 200 * gradient(z)
    found = moments.latent_moments(z)
    np.testing.assert_allclose(found.mean, 0, atol=1e-2)
    np.testing.assert_allclose(found.variance, 1, atol=1e-2)


def test_equal_latents_have_a_finite_gradient():
    gradient = jax.grad(moments.latent_norm_loss)(jnp.ones((8, 2)))
    np.testing.assert_allclose(gradient, 2 * moments.MEAN_WEIGHT / 16, rtol=1e-6)


def test_a_dimension_without_variance_has_finite_gradients():
    gradient = jax.grad(lambda z: moments.latent_norm_loss(z, skewness_weight=0.06, kurtosis_weight=0.05))(
        jnp.ones((8, 3))
    )
    assert jnp.isfinite(gradient).all()
