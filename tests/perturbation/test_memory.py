from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.perturbation import memory


def oldest_first(state):
    return np.roll(np.asarray(state.samples), -int(state.cursor), axis=0)


def test_init_is_standard_normal_and_deterministic():
    state = memory.init(jax.random.key(0), 20_000, 3)
    assert (state.samples.shape, state.samples.dtype) == ((20_000, 3), jnp.float32)
    assert (state.cursor.shape, state.cursor.dtype, int(state.cursor)) == ((), jnp.int32, 0)
    # Standard errors are 0.007 for the mean and 0.01 for the variance.
    np.testing.assert_allclose(state.samples.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(state.samples.T), np.eye(3), atol=0.04)
    np.testing.assert_array_equal(state.samples, memory.init(jax.random.key(0), 20_000, 3).samples)


@pytest.mark.parametrize("sizes", [[3] * 9, [1, 7, 10, 7, 10, 1], [0, 7, 0, 7]], ids=str)
def test_push_is_first_in_first_out(sizes):
    state = memory.init(jax.random.key(1), 10, 2)
    model = deque(np.asarray(state.samples), maxlen=10)
    pushed = 0
    for size in sizes:
        z = (pushed + jnp.arange(2 * size, dtype=jnp.float32)).reshape(size, 2)
        pushed += 2 * size
        state = memory.push(state, z)
        model.extend(np.asarray(z))
        np.testing.assert_array_equal(oldest_first(state), np.stack(model))
        assert 0 <= int(state.cursor) < 10


def test_push_stores_float32_without_gradient():
    state = memory.init(jax.random.key(0), 8, 2)
    z = jnp.array([[1.5, -2.0]], jnp.bfloat16)
    pushed = memory.push(state, z)
    assert pushed.samples.dtype == jnp.float32
    np.testing.assert_array_equal(pushed.samples[0], [1.5, -2.0])
    gradient = jax.grad(lambda z: memory.push(state, z).samples.sum())(jnp.ones((3, 2)))
    np.testing.assert_array_equal(gradient, 0)


def test_push_inside_jit_equals_outside_and_traces_once():
    traces = []

    @jax.jit
    def push(state, z):
        traces.append(1)
        return memory.push(state, z)

    inside = outside = memory.init(jax.random.key(0), 10, 2)
    for step in range(10):
        z = jnp.full((3, 2), float(step))
        inside, outside = push(inside, z), memory.push(outside, z)
    jax.tree.map(np.testing.assert_array_equal, inside, outside)
    assert len(traces) == 1


@pytest.mark.parametrize(("capacity", "dim"), [(0, 2), (4, 0), (-1, 2)])
def test_an_empty_memory_raises(capacity, dim):
    with pytest.raises(ValueError, match=f"capacity={capacity}, dim={dim}"):
        memory.init(jax.random.key(0), capacity, dim)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 3), r"dimension 2 but z has shape \(4, 3\): pass \(n, 2\)"),
        ((2,), r"z has shape \(2,\)"),
        ((1, 4, 2), r"z has shape \(1, 4, 2\)"),
        ((9, 2), "memory holds 8 latents but 9 were pushed at once"),
    ],
)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_push_of_a_wrong_shape_raises(shape, message, transform):
    state = memory.init(jax.random.key(0), 8, 2)
    with pytest.raises(ValueError, match=message):
        transform(memory.push)(state, jnp.zeros(shape))
