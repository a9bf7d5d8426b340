"""The protocol, for every entry of `QUANTIZERS`: a new method is covered as soon as it is registered."""

import dataclasses
import inspect
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vpvae_jax.config.quantizer_section import argument_docs
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
# The methods that draw random numbers in training: another key gives another z_tilde.
DRAWS = {"vp", "vp auto", "vp neighbor", "fsp", "fsq noise", "tokenbridge"}
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
        name=request.param,
        quantizer=quantizer,
        params=params,
        state=state,
        step=step,
        traces=traces,
        codebook=codebook,
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
    assert all(isinstance(key, str) and value.shape == () and np.isfinite(value) for key, value in info.items())
    assert describe(new_state) == describe(method.state)
    again = method.step(method.params, method.state, z, jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, again, (out, slope))
    (other, *_), _ = method.step(method.params, method.state, z, jax.random.key(5))
    assert np.array_equal(other, z_tilde) == (method.name not in DRAWS)


def test_ten_steps_trace_once(method):
    state = method.state
    for seed in range(10):
        (_, state, _, _), _ = method.step(method.params, state, tokens(method.quantizer, seed), jax.random.key(seed))
        assert describe(state) == describe(method.state)
    assert len(method.traces) == 1


def test_eager_equals_jit_and_bfloat16_latents_are_computed_in_float32(method):
    """One eager step for both promises: its latents are bfloat16, those of the compiled step the same in float32."""
    z, key = tokens(method.quantizer).astype(jnp.bfloat16), jax.random.key(2)
    eager = method.quantizer.train(method.params, method.state, z, key)
    jitted, _ = method.step(method.params, method.state, z.astype(jnp.float32), key)
    assert [x.dtype for x in jax.tree.leaves(eager)] == [x.dtype for x in jax.tree.leaves(jitted)]
    assert np.isfinite(eager[0]).all()
    assert_trees_close(jitted, eager)


def test_bfloat16_latents_are_projected_encoded_and_fitted_in_float32(method):
    quantizer, z = method.quantizer, tokens(method.quantizer).astype(jnp.bfloat16)
    assert quantizer.project(z).dtype == jnp.float32
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


def test_latents_far_from_every_code_are_encoded_and_decoded(method):
    """A batch that training did not see: each latent gets a code, whatever its distance."""
    quantizer, codebook = method.quantizer, method.codebook
    latents = np.random.default_rng(6).normal(size=(NUM_TOKENS, quantizer.latent_dim))
    latents = jnp.asarray(5 * np.abs(codebook).max() * latents, jnp.float32)
    indices = quantizer.encode(codebook, latents)
    assert (indices.shape, indices.dtype) == ((NUM_TOKENS,), jnp.int32)
    assert 0 <= indices.min() <= indices.max() < quantizer.codebook_size
    assert len(np.unique(indices)) > 1
    codes = quantizer.decode(codebook, indices)
    assert (codes.shape, codes.dtype) == ((NUM_TOKENS, quantizer.latent_dim), jnp.float32)
    np.testing.assert_array_equal(codes, np.asarray(codebook)[indices])


def test_fit_is_deterministic_in_the_key_and_follows_the_latents_only_where_it_says(method):
    quantizer = method.quantizer
    latents = quantizer.project(tokens(quantizer, n=512))
    again = quantizer.fit(method.params, method.state, latents, jax.random.key(3))
    np.testing.assert_array_equal(again, method.codebook)
    other = quantizer.fit(method.params, method.state, 2 * latents, jax.random.key(3))
    assert np.array_equal(other, method.codebook) != quantizer.fitted_afterwards


def test_64_bit_mode_changes_no_dtype_and_no_result(method):
    """The step of each variant is only traced, to save time: that is where unequal dtypes of a loop raise."""
    quantizer, z, key = method.quantizer, tokens(method.quantizer), jax.random.key(2)
    expected, _ = method.step(method.params, method.state, z, key)
    expected_indices = quantizer.encode(method.codebook, quantizer.project(z))

    @jax.jit
    def train_and_encode(params, state, codebook, z):
        return quantizer.train(params, state, z, key), quantizer.encode(codebook, quantizer.project(z))

    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(z, np.float64))
        assert wide.dtype == jnp.float64
        params, state = quantizer.init(jax.random.key(0))
        fitted = jax.eval_shape(quantizer.fit, params, state, quantizer.project(wide), key)
        run = train_and_encode.eval_shape if method.name in VARIANTS else train_and_encode
        out, indices = run(params, state, method.codebook, wide)
    assert describe((params, state)) == describe((method.params, method.state))
    assert describe(out) == describe(expected)
    assert (fitted.dtype, indices.dtype) == (jnp.float32, jnp.int32)
    if method.name not in VARIANTS:
        assert_trees_close(out, expected)
        np.testing.assert_array_equal(indices, expected_indices)


def test_explicit_axes_keep_the_rows_of_the_batch(method):
    """Only traced, on the default mesh of one device: that is where JAX raises; eight devices are a system test."""
    mesh = jax.make_mesh((1,), ("data",))
    assert mesh.axis_types == (AxisType.Explicit,)
    quantizer, codebook, key = method.quantizer, method.codebook, jax.random.key(2)
    z = jax.device_put(tokens(quantizer), NamedSharding(mesh, P("data")))

    def trace(params, state, codebook, z):
        out = quantizer.train(params, state, z, key)
        latents = quantizer.project(z)
        fitted = quantizer.fit(params, state, latents, key)
        indices = quantizer.encode(codebook, latents)
        codes = quantizer.decode(codebook, indices)
        specs = [jax.typeof(each).sharding.spec for each in (out[0], latents, indices, codes, out[2], fitted)]
        assert [tuple(spec)[:1] for spec in specs] == [("data",)] * 4 + [(), (None,)]
        return out, codes

    jax.eval_shape(trace, method.params, method.state, codebook, z)


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_every_argument_has_a_type_and_a_description(name):
    """The documentation of config keys is made from them."""
    factory = QUANTIZERS[name]
    parameters = inspect.signature(factory).parameters
    assert set(parameters) <= set(typing.get_type_hints(factory))
    described = argument_docs(factory)
    assert list(described) == list(parameters), "the docstring needs an `Args:` section with a line for each argument"
    assert all(described.values())
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
