"""The start of the bottleneck; the networks around it have their own files."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.models.autoencoder import Autoencoder


def _start(scale):
    network = Autoencoder(nn.Dense(400), nn.Dense(2), 16, 50, bottleneck_init_scale=scale)
    return jax.jit(network.init)(jax.random.key(0), jnp.ones((1, 2)))["params"]


def test_the_scale_is_that_of_the_weights_that_make_latents_and_of_no_others():
    whole, tenth = _start(1.0), _start(0.1)
    assert whole["down"]["kernel"].std() == pytest.approx(1 / np.sqrt(400), rel=0.02)  # LeCun's
    np.testing.assert_allclose(tenth["down"].pop("kernel"), 0.1 * whole["down"].pop("kernel"), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, tenth, whole)
