import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.quantizers import QUANTIZERS, Quantizer

# Small settings of each method. A new method needs a line here.
SETTINGS = {
    "vp": {"codebook_size": 16, "latent_dim": 3, "k_radius": 12},
    "fsp": {"levels": (2, 5, 4)},
    "fsq": {"levels": (2, 5, 4), "symmetric": True, "noise_rate": 0.5},
    "vq": {"codebook_size": 16, "latent_dim": 3},
    "simvq": {"codebook_size": 16, "latent_dim": 3},
    "tokenbridge": {"codebook_size": 64},
    "none": {"codebook_size": 16, "latent_dim": 3},
}
# Methods whose z_tilde is z plus a constant to the gradient.
IDENTITY_GRADIENT = {"vp"}
# Methods that draw random numbers in training, with the settings above.
RANDOM = {"vp", "fsp", "fsq", "tokenbridge"}

NUM_TOKENS = 64

METHODS = pytest.mark.parametrize("name", sorted(QUANTIZERS))


def build(name, seed=0):
    quantizer = QUANTIZERS[name](**SETTINGS[name])
    params, state = quantizer.init(jax.random.key(seed))
    return quantizer, params, state


def tokens(quantizer, seed=1, n=NUM_TOKENS):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, quantizer.input_dim)), jnp.float32)


def fitted(quantizer, params, state):
    return quantizer.fit(params, state, quantizer.project(tokens(quantizer, n=512)), jax.random.key(3))


def describe(tree):
    """Structure, shapes, dtypes and weak types: what a second trace would be made for."""
    return jax.tree.structure(tree), [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]


def assert_trees_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


def test_every_method_has_settings_here():
    assert set(SETTINGS) == set(QUANTIZERS)


@METHODS
def test_signatures(name):
    quantizer, _, _ = build(name)
    assert isinstance(quantizer, Quantizer)
    expected = {
        "init": ["key"],
        "train": ["params", "state", "z", "key"],
        "project": ["z"],
        "fit": ["params", "state", "latents", "key"],
        "encode": ["codebook", "z"],
        "decode": ["codebook", "indices"],
    }
    found = {method: list(inspect.signature(getattr(quantizer, method)).parameters) for method in expected}
    assert found == expected
    assert all(isinstance(size, int) for size in (quantizer.input_dim, quantizer.latent_dim, quantizer.codebook_size))


@METHODS
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_dtypes(name, dtype):
    quantizer, params, state = build(name)
    z = tokens(quantizer).astype(dtype)
    z_tilde, new_state, loss, info = quantizer.train(params, state, z, jax.random.key(2))
    assert (z_tilde.shape, z_tilde.dtype) == ((NUM_TOKENS, quantizer.latent_dim), jnp.float32)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert np.isfinite(z_tilde).all()
    assert np.isfinite(loss)
    assert info
    assert all(isinstance(key, str) and value.shape == () and np.isfinite(value) for key, value in info.items())
    assert describe(new_state) == describe(state)

    codebook = fitted(quantizer, params, state)
    assert (codebook.shape, codebook.dtype) == ((quantizer.codebook_size, quantizer.latent_dim), jnp.float32)
    latents = quantizer.project(z)
    assert (latents.shape, latents.dtype) == ((NUM_TOKENS, quantizer.latent_dim), jnp.float32)
    indices = quantizer.encode(codebook, latents)
    z_q = quantizer.decode(codebook, indices)
    assert (indices.shape, indices.dtype) == ((NUM_TOKENS,), jnp.int32)
    assert 0 <= int(indices.min()) <= int(indices.max()) < quantizer.codebook_size
    assert (z_q.shape, z_q.dtype) == ((NUM_TOKENS, quantizer.latent_dim), jnp.float32)


@METHODS
def test_fit_takes_bfloat16_latents_and_decodes_to_float32(name):
    quantizer, params, state = build(name)
    latents = quantizer.project(tokens(quantizer, n=512)).astype(jnp.bfloat16)
    codebook = quantizer.fit(params, state, latents, jax.random.key(3))
    assert quantizer.decode(codebook, jnp.arange(quantizer.codebook_size)).dtype == jnp.float32


@METHODS
def test_every_code_exists_once_and_is_encoded_as_its_own_index(name):
    quantizer, params, state = build(name)
    codebook = fitted(quantizer, params, state)
    indices = jnp.arange(quantizer.codebook_size, dtype=jnp.int32)
    codes = quantizer.decode(codebook, indices)
    assert len(np.unique(codes, axis=0)) == quantizer.codebook_size


@METHODS
def test_decoded_codes_encode_to_their_index(name):
    quantizer, params, state = build(name)
    codebook = fitted(quantizer, params, state)
    indices = jnp.arange(quantizer.codebook_size, dtype=jnp.int32)
    encoded = quantizer.encode(codebook, quantizer.decode(codebook, indices))
    assert encoded.dtype == jnp.int32
    np.testing.assert_array_equal(encoded, indices)


@METHODS
def test_jit_equals_eager(name):
    quantizer, params, state = build(name)
    z, key = tokens(quantizer), jax.random.key(2)
    assert_trees_close(jax.jit(quantizer.train)(params, state, z, key), quantizer.train(params, state, z, key))

    codebook, latents = fitted(quantizer, params, state), quantizer.project(z)
    indices = quantizer.encode(codebook, latents)
    np.testing.assert_array_equal(jax.jit(quantizer.encode)(codebook, latents), indices)
    assert_trees_close(jax.jit(quantizer.decode)(codebook, indices), quantizer.decode(codebook, indices))


@METHODS
def test_train_and_fit_are_deterministic_in_the_key(name):
    quantizer, params, state = build(name)
    z = tokens(quantizer)
    first, again, other = (quantizer.train(params, state, z, jax.random.key(seed)) for seed in (2, 2, 5))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.array_equal(first[0], other[0]) == (name not in RANDOM)
    jax.tree.map(np.testing.assert_array_equal, fitted(quantizer, params, state), fitted(quantizer, params, state))


@pytest.mark.parametrize("name", sorted(IDENTITY_GRADIENT))
def test_perturbation_is_the_identity_to_the_gradient(name):
    quantizer, params, state = build(name)
    z = tokens(quantizer)
    weight = tokens(quantizer, seed=4)[:, : quantizer.latent_dim]

    def weighted(z):
        z_tilde = quantizer.train(params, state, z, jax.random.key(2))[0]
        return (z_tilde * weight).sum(), z_tilde

    (_, z_tilde), gradient = jax.value_and_grad(weighted, has_aux=True)(z)
    assert (z_tilde != z).any()
    np.testing.assert_array_equal(gradient, weight)


@METHODS
def test_loss_has_a_finite_gradient(name):
    quantizer, params, state = build(name)
    gradient = jax.grad(lambda z: quantizer.train(params, state, z, jax.random.key(2))[2])(tokens(quantizer))
    assert np.isfinite(gradient).all()


@METHODS
def test_ten_steps_keep_the_state_and_trace_once(name):
    quantizer, params, state = build(name)
    traces = []

    @jax.jit
    def step(params, state, z, key):
        traces.append(1)
        return quantizer.train(params, state, z, key)

    before = describe(state)
    for seed in range(10):
        _, state, _, _ = step(params, state, tokens(quantizer, seed), jax.random.key(seed))
        assert describe(state) == before
    assert len(traces) == 1
