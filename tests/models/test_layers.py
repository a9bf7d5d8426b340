"""Our layers against those of flax: same parameters, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.models import layers

PAIRS = {
    "conv": (layers.Conv(6), nn.Conv(6, (3, 3), padding=1)),
    "strided conv": (
        layers.Conv(6, stride=2, padding=(0, 1)),
        nn.Conv(6, (3, 3), strides=2, padding=((0, 1), (0, 1))),
    ),
    "layer norm": (layers.LayerNorm(), nn.LayerNorm(epsilon=1e-6)),
    "group norm": (layers.GroupNorm(), nn.GroupNorm(8, epsilon=1e-6)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_flax(name):
    ours, theirs = PAIRS[name]
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 8))
    initial = jax.jit(ours.init)(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, initial, jax.jit(theirs.init)(jax.random.key(1), x))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), initial)

    def value_and_gradient(layer):
        return jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(jnp.sin(layer.apply(p, x))), argnums=(0, 1)))(params, x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        value_and_gradient(ours),
        value_and_gradient(theirs),
    )


def test_bfloat16_sums_of_many_positions_lose_nothing_to_their_number():
    """A running sum in bfloat16 would stand still at 256."""
    gradient = jax.grad(lambda bias: layers.to_positions(bias, (4096, 2)).astype(jnp.float32).sum())
    np.testing.assert_array_equal(gradient(jnp.zeros(2, jnp.bfloat16)), [4096, 4096])


def test_every_platform_gets_its_sum():
    gradient = jax.jit(jax.grad(lambda bias: layers.to_positions(bias, (64, 3)).sum()))
    for platform, has_product in (("cpu", True), ("cuda", False), ("tpu", False)):
        text = gradient.trace(jnp.zeros(3)).lower(lowering_platforms=(platform,)).as_text()
        assert ("dot_general" in text) == has_product, platform
