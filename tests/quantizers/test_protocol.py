"""The protocol, for every entry of `QUANTIZERS`: a new method is covered as soon as it is registered."""

import dataclasses
import inspect
import re
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.quantizers import QUANTIZERS, LatentNorm, Quantizer, paper

METHODS = {name: (factory, paper.settings(factory, 16)) for name, factory in QUANTIZERS.items()}
# Settings of some methods that change what their step does.
VARIANTS = {
    "fsq noise": ("fsq", {"symmetric": True, "noise_rate": 0.5}),
    "vp auto": ("vp", {"eta": "auto"}),
    "vp neighbor": ("vp", {"move": "neighbor"}),
    "vq ema": ("vq", {"update": "ema", "restart_below": 0.1}),
}
METHODS |= {name: (QUANTIZERS[of], METHODS[of][1] | settings) for name, (of, settings) in VARIANTS.items()}
WITH_NORM = [name for name in QUANTIZERS if "latent_norm" in inspect.signature(QUANTIZERS[name]).parameters]
NUM_TOKENS = 64


def tokens(quantizer, seed=1, n=NUM_TOKENS):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, quantizer.input_dim)), jnp.float32)


def describe(tree):
    """Structure, shapes, dtypes and weak types: what a second trace would be made for."""
    return jax.tree.structure(tree), [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]


def assert_trees_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


@pytest.fixture(scope="session", params=sorted(METHODS))
def method(request):
    """A quantizer, one compiled step with the gradient of its loss, and a fitted codebook."""
    factory, settings = METHODS[request.param]
    quantizer = factory(**settings)
    params, state = quantizer.init(jax.random.key(0))
    traces = []

    @jax.jit
    def step(params, state, z, key):
        traces.append(1)

        def loss(z):
            z_tilde, new_state, loss, info = quantizer.train(params, state, z, key)
            return loss, (z_tilde, new_state, loss, info)

        (_, out), slope = jax.value_and_grad(loss, has_aux=True)(z)
        return out, slope

    codebook = quantizer.fit(params, state, quantizer.project(tokens(quantizer, n=512)), jax.random.key(3))
    return types.SimpleNamespace(
        quantizer=quantizer, params=params, state=state, step=step, traces=traces, codebook=codebook
    )


def test_signatures(method):
    quantizer = method.quantizer
    assert isinstance(quantizer, Quantizer)
    expected = {
        "init": ["key"],
        "train": ["params", "state", "z", "key"],
        "project": ["z"],
        "fit": ["params", "state", "latents", "key"],
        "encode": ["codebook", "z"],
        "decode": ["codebook", "indices"],
    }
    found = {name: list(inspect.signature(getattr(quantizer, name)).parameters) for name in expected}
    assert found == expected
    assert all(isinstance(size, int) for size in (quantizer.input_dim, quantizer.latent_dim, quantizer.codebook_size))
    assert isinstance(quantizer.fitted_afterwards, bool)


def test_train_keeps_shapes_dtypes_and_state_and_is_deterministic_in_the_key(method):
    quantizer, z = method.quantizer, tokens(method.quantizer)
    out, slope = method.step(method.params, method.state, z, jax.random.key(2))
    z_tilde, new_state, loss, info = out
    assert (z_tilde.shape, z_tilde.dtype) == ((NUM_TOKENS, quantizer.latent_dim), jnp.float32)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert np.isfinite(z_tilde).all()
    assert np.isfinite(loss)
    assert np.isfinite(slope).all()
    assert info
    assert all(isinstance(key, str) and value.shape == () and np.isfinite(value) for key, value in info.items())
    assert describe(new_state) == describe(method.state)
    again = method.step(method.params, method.state, z, jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, again, (out, slope))


def test_ten_steps_trace_once(method):
    state = method.state
    for seed in range(10):
        (_, state, _, _), _ = method.step(method.params, state, tokens(method.quantizer, seed), jax.random.key(seed))
        assert describe(state) == describe(method.state)
    assert len(method.traces) == 1


def test_eager_equals_jit(method):
    z, key = tokens(method.quantizer), jax.random.key(2)
    eager = method.quantizer.train(method.params, method.state, z.astype(jnp.float32), key)
    assert_trees_close(method.step(method.params, method.state, z, key)[0], eager)


def test_bfloat16_latents_are_computed_in_float32(method):
    quantizer, z = method.quantizer, tokens(method.quantizer).astype(jnp.bfloat16)
    shapes = jax.eval_shape(quantizer.train, method.params, method.state, z, jax.random.key(2))
    assert {leaf.dtype for leaf in (shapes[0], shapes[2], quantizer.project(z))} == {jnp.dtype("float32")}
    wide = quantizer.project(z.astype(jnp.float32))
    np.testing.assert_array_equal(quantizer.project(z), wide)
    np.testing.assert_array_equal(
        quantizer.encode(method.codebook, quantizer.project(z)), quantizer.encode(method.codebook, wide)
    )
    fitted = jax.eval_shape(quantizer.fit, method.params, method.state, wide.astype(jnp.bfloat16), jax.random.key(3))
    assert fitted.dtype == jnp.float32


def test_every_code_exists_once_and_encodes_to_its_own_index(method):
    quantizer, codebook = method.quantizer, method.codebook
    assert (codebook.shape, codebook.dtype) == ((quantizer.codebook_size, quantizer.latent_dim), jnp.float32)
    indices = jnp.arange(quantizer.codebook_size, dtype=jnp.int32)
    codes = quantizer.decode(codebook, indices)
    assert (codes.shape, codes.dtype) == (codebook.shape, jnp.float32)
    assert len(np.unique(codes, axis=0)) == quantizer.codebook_size
    encoded = quantizer.encode(codebook, codes)
    assert encoded.dtype == jnp.int32
    np.testing.assert_array_equal(encoded, indices)
    np.testing.assert_array_equal(jax.jit(quantizer.encode)(codebook, codes), indices)
    np.testing.assert_array_equal(jax.jit(quantizer.decode)(codebook, indices), codes)


def test_fit_is_deterministic_in_the_key_and_follows_the_latents_only_where_it_says(method):
    quantizer = method.quantizer
    latents = quantizer.project(tokens(quantizer, n=512))
    again = quantizer.fit(method.params, method.state, latents, jax.random.key(3))
    np.testing.assert_array_equal(again, method.codebook)
    other = quantizer.fit(method.params, method.state, 2 * latents, jax.random.key(3))
    assert np.array_equal(other, method.codebook) != quantizer.fitted_afterwards


def test_64_bit_mode_changes_no_dtype(method):
    """Traced only: what raised there were loops and branches of unequal dtypes."""
    quantizer, z = method.quantizer, np.asarray(tokens(method.quantizer), np.float64)
    with jax.enable_x64(True):
        params, state = quantizer.init(jax.random.key(0))
        out = jax.eval_shape(quantizer.train, params, state, jnp.asarray(z), jax.random.key(2))
        codebook = jax.eval_shape(quantizer.fit, params, state, quantizer.project(jnp.asarray(z)), jax.random.key(3))
        indices = jax.eval_shape(quantizer.encode, codebook, quantizer.project(jnp.asarray(z)))
    wide = [leaf for leaf in jax.tree.leaves((params, state, out, codebook)) if leaf.dtype in (jnp.float64, jnp.int64)]
    assert not wide
    assert indices.dtype == jnp.int32


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_every_argument_has_a_type_and_a_description(name):
    """The documentation of config keys is made from them."""
    factory = QUANTIZERS[name]
    parameters = inspect.signature(factory).parameters
    assert set(parameters) <= set(typing.get_type_hints(factory))
    arguments = re.search(r"Args:\n(.*?)\n\n", inspect.getdoc(factory), re.DOTALL).group(1)
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == list(parameters)
    for parameter in parameters.values():
        if parameter.name == "latent_norm":
            assert isinstance(parameter.default, LatentNorm)


@pytest.mark.parametrize("name", WITH_NORM)
def test_a_factory_keeps_its_own_weights(name):
    factory, settings = METHODS[name]
    norm = LatentNorm(1.0, 1.0)
    before = dataclasses.replace(inspect.signature(factory).parameters["latent_norm"].default)
    quantizer = factory(**settings, latent_norm=norm)
    norm.mean_weight = norm.variance_weight = 0.0
    params, state = quantizer.init(jax.random.key(0))
    assert float(quantizer.train(params, state, 3 * tokens(quantizer), jax.random.key(2))[2]) > 1
    assert inspect.signature(factory).parameters["latent_norm"].default == before
    norm.kurtosis_weight = -1.0
    with pytest.raises(ValueError, match=r"latent_norm\.kurtosis_weight=-1\.0: expected 0 or more"):
        factory(**settings, latent_norm=norm)
