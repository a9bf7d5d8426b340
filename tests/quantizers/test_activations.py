import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.quantizers.activations import ACTIVATIONS, get_activation

activations = pytest.mark.parametrize("name", sorted(ACTIVATIONS))


@activations
def test_maps_match_reference(golden, name):
    activation = get_activation(name)
    np.testing.assert_allclose(activation.cdf(jnp.asarray(golden["cdf/x"])), golden[f"cdf/{name}/y"], atol=1e-5)
    inverse = activation.inverse(jnp.asarray(golden["cdf/p"]))
    np.testing.assert_allclose(inverse, golden[f"cdf/{name}/inverse"], rtol=1e-5, atol=1e-5)


@activations
def test_variance_is_that_of_uniform_draws_mapped_back(name):
    # Midpoints of a fine grid; the tails beyond them hold next to nothing of a finite variance.
    p = (np.arange(200_000) + 0.5) / 200_000
    if name == "cauchy":
        assert ACTIVATIONS[name].variance == np.inf
        return
    drawn = np.asarray(ACTIVATIONS[name].inverse(jnp.asarray(p, jnp.float32)), np.float64)
    assert np.var(drawn[1:-1]) == pytest.approx(ACTIVATIONS[name].variance, rel=3e-3)


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"activation='relu': expected one of tanh, sigmoid"):
        get_activation("relu")
