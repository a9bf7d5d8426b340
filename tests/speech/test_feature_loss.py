import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.speech.losses import feature_loss

KEY = jax.random.key(0)


def pair(scale):
    target, noise = jax.random.normal(KEY, (2, 3, 7, 4))
    return target + scale * noise, target


def plain(features, target):
    return jnp.mean(jnp.sum((features - target) ** 2, axis=-1))


def test_by_hand():
    """Sums over features, 1 + 4 and 9 + 0, then the mean over frames."""
    features = jnp.array([[[1.0, 2.0], [3.0, 0.0]]])
    np.testing.assert_allclose(feature_loss(features, jnp.zeros_like(features), limit=100.0), (5 + 9) / 2, rtol=1e-6)


def test_below_the_limit_nothing_changes():
    features, target = pair(0.5)
    value, gradient = jax.jit(jax.value_and_grad(feature_loss))(features, target)
    expected, expected_gradient = jax.jit(jax.value_and_grad(plain))(features, target)
    assert expected < 5.0
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6)


@pytest.mark.parametrize("limit", [5.0, 0.5])
def test_from_the_limit_on_the_gradient_keeps_its_direction(limit):
    features, target = pair(30.0)
    value, gradient = jax.jit(jax.value_and_grad(feature_loss))(features, target, limit=limit)
    unlimited, expected = jax.jit(jax.value_and_grad(plain))(features, target)
    assert unlimited > 5.0
    np.testing.assert_allclose(value, limit, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected * (limit / unlimited), rtol=1e-5)


def test_equal_features_have_a_finite_gradient():
    features, _ = pair(1.0)
    value, gradient = jax.jit(jax.value_and_grad(feature_loss))(features, features)
    assert value == 0
    np.testing.assert_array_equal(gradient, jnp.zeros_like(features))


def test_bfloat16_features_are_compared_in_float32():
    features = jnp.full((1, 300, 64), 1.0078125, jnp.bfloat16)
    value = feature_loss(features, jnp.ones_like(features))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 64 * 0.0078125**2, rtol=1e-6)
