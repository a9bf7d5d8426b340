import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.quantizers.activations import ACTIVATIONS, get_activation

activations = pytest.mark.parametrize("name", sorted(ACTIVATIONS))


@activations
def test_maps_match_reference(golden, name):
    activation = get_activation(name)
    np.testing.assert_allclose(activation.cdf(jnp.asarray(golden["cdf/x"])), golden[f"cdf/{name}/y"], atol=1e-5)


@activations
def test_variance_is_that_of_the_distribution(name):
    if name == "cauchy":
        assert ACTIVATIONS[name].variance == np.inf
        return
    # E x^2 = 2 * integral of x * P(|x| > x) = 4 * integral of x * cdf(-x), as all are symmetric.
    x = np.linspace(0, 40, 40_001)
    tail = np.asarray(ACTIVATIONS[name].cdf(jnp.asarray(-x, jnp.float32)), np.float64)
    assert np.trapezoid(4 * x * tail, x) == pytest.approx(ACTIVATIONS[name].variance, rel=3e-3)


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"activation='relu': expected one of tanh, sigmoid"):
        get_activation("relu")
