import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.models import waveform_layers as layers
from vpvae_jax.models.local_attention import LocalAttention, LocalTransformer
from vpvae_jax.models.sqcodec import SQCodecDecoder, SQCodecEncoder

SMALL = {"feature_dim": 16, "attention_depth": 1, "attention_window": 8}


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.partial(jax.jit, static_argnums=0)
def init(module, *inputs):
    return module.init(*inputs)


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, *inputs):
    return module.apply(params, *inputs)


def _random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.system
def test_the_published_network_has_10_31_million_parameters_in_the_published_shares():
    encoder = jax.eval_shape(SQCodecEncoder().init, jax.random.key(0), jnp.zeros((1, 960)))["params"]
    decoder = jax.eval_shape(SQCodecDecoder().init, jax.random.key(0), jnp.zeros((1, 10, 128)))["params"]
    transformers = encoder.pop("transformer"), decoder.pop("transformer")
    shares = [_size(part) / 1e6 for part in (encoder, *transformers, decoder)]
    assert [round(share, 2) for share in shares] == [0.88, 0.23, 0.69, 8.49]
    assert round(sum(shares), 2) == 10.31


@pytest.mark.parametrize(("samples", "tokens"), [(96, 1), (97, 2), (960, 10), (1000, 11)])
def test_any_length_is_filled_up_to_whole_tokens_and_decoded_to_whole_hops(samples, tokens):
    encoder = SQCodecEncoder(widths=(4, 4, 8, 8), depths=(1, 0, 1, 1), **SMALL)
    decoder = SQCodecDecoder(widths=(8, 8, 4, 4, 4), depths=(1, 1, 0, 0), **SMALL)
    features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), jnp.zeros((2, samples)))
    assert features.shape == (2, tokens, 16)
    waveforms, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), features)
    assert waveforms.shape == (2, tokens * 96)


def test_trend_pool_is_maximum_then_mean_of_magnitudes():
    x = _random(1, 23, 2)
    padded = np.pad(np.abs(x), ((0, 0), (2, 2), (0, 0)))
    peaks = np.stack([padded[:, i : i + 5].max(axis=1) for i in range(23)], axis=1)
    padded = np.pad(peaks, ((0, 0), (2, 2), (0, 0)))
    expected = np.stack([padded[:, i : i + 5].mean(axis=1) for i in range(23)], axis=1)
    np.testing.assert_allclose(layers.trend_pool(x, 5), expected, rtol=1e-5)
    np.testing.assert_array_equal(layers.trend_pool(x, 1), x)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("dilation", [1, 3, (1, 3, 2, 1)])
def test_depthwise_convolution_is_one_of_each_channel(dilation, multiplier):
    x = _random(2, 30, 4)
    module = layers.DepthwiseConv(7, multiplier=multiplier, dilation=dilation)
    shape = (4, multiplier)
    params = init(module, jax.random.key(1), x)["params"]
    params |= {"bias": _random(*shape, seed=2), "length": _random(*shape, seed=3)}
    direction = params["direction"]
    kernel = direction * (params["length"] / jnp.linalg.norm(direction, axis=0))  # (7, channels, multiplier)
    y = apply(module, {"params": params}, x)
    assert y.shape == (2, 30, 4 * multiplier)
    for channel in range(4):
        spread = dilation[channel] if isinstance(dilation, tuple) else dilation
        for filter_ in range(multiplier):
            taps = np.zeros(6 * spread + 1)
            taps[::spread] = kernel[:, channel, filter_]
            for clip in range(2):
                expected = np.correlate(np.pad(x[clip, :, channel], 3 * spread), taps, mode="valid")
                found = y[clip, :, channel * multiplier + filter_]
                np.testing.assert_allclose(found, expected + params["bias"][channel, filter_], atol=1e-5)


@pytest.mark.parametrize(("width", "stride", "dilation"), [(3, 3, 1), (5, 1, 1), (3, 1, 2)])
def test_convolution_is_a_sum_over_taps(width, stride, dilation):
    x = _random(2, 12, 3)
    module = layers.WeightNormConv(4, width, stride, dilation)
    params = init(module, jax.random.key(1), x)["params"] | {"bias": _random(4, seed=2), "length": _random(4, seed=3)}
    direction = params["direction"]
    kernel = direction * (params["length"] / jnp.linalg.norm(direction.reshape(-1, 4), axis=0))
    reach = 0 if stride > 1 else dilation * (width // 2)
    padded = np.pad(x, ((0, 0), (reach, reach), (0, 0)))
    starts = range(0, 12, stride)
    expected = [sum(padded[:, start + dilation * tap] @ kernel[tap] for tap in range(width)) for start in starts]
    np.testing.assert_allclose(
        apply(module, {"params": params}, x), np.stack(expected, axis=1) + params["bias"], atol=1e-5
    )


def test_instance_norm_is_over_time_for_each_clip_and_channel():
    x = 3 + _random(2, 50, 4) * jnp.array([0.1, 1.0, 2.0, 10.0])
    params = {"scale": _random(4, seed=1), "bias": _random(4, seed=2)}
    mean, deviation = np.mean(x, axis=1, keepdims=True), np.std(x, axis=1, keepdims=True)
    expected = (x - mean) / deviation * params["scale"] + params["bias"]
    np.testing.assert_allclose(layers.InstanceNorm().apply({"params": params}, x), expected, rtol=2e-3, atol=2e-3)


def test_upsampling_is_linear_between_centres():
    x = jnp.array([[[0.0], [4.0]]])
    np.testing.assert_allclose(layers.upsample(x, 2)[0, :, 0], [0, 1, 3, 4])
    np.testing.assert_allclose(layers.upsample(x, 4)[0, :, 0], [0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4])


def test_snake_and_its_gradient_equal_the_formula():
    x, alpha = 20 * _random(3, 50, 4), jnp.array([0.3, 1.0, 2.5, 7.0])

    def formula(x, alpha):
        return x + jnp.sin(alpha * x) ** 2 / alpha

    np.testing.assert_allclose(layers.snake(x, alpha), formula(x, alpha), atol=2e-5)
    ours, theirs = (jax.grad(lambda x, a, f=f: (f(x, a) ** 2).sum(), (0, 1))(x, alpha) for f in (layers.snake, formula))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-2)


def test_snake_is_no_worse_in_bfloat16_than_its_arguments():
    x, alpha = 20 * _random(3, 50, 4), jnp.array([0.3, 1.0, 2.5, 7.0])
    x, alpha = (array.astype(jnp.bfloat16) for array in (x, alpha))
    exact = [array.astype(jnp.float32) for array in (x, alpha)]
    (value, gradient), (expected, expected_gradient) = (
        (layers.snake(*arguments), jax.grad(lambda x, a: layers.snake(x, a).astype(jnp.float32).sum())(*arguments))
        for arguments in ((x, alpha), exact)
    )
    assert value.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value.astype(jnp.float32), expected, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected_gradient, rtol=0.01, atol=0.01)


def test_product_has_the_gradient_of_a_product():
    x, kernel = _random(2, 5, 3), _random(3, 4, seed=1)
    ours, theirs = (
        jax.grad(lambda x, k, f=f: (f(x, k) ** 3).sum(), (0, 1))(x, kernel) for f in (layers.matmul, jnp.matmul)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def _transformer(x, window):
    module = LocalTransformer(depth=1, num_heads=2, head_dim=4, window=window)
    return apply(module, init(module, jax.random.key(3), x), x)


@pytest.mark.parametrize("length", [3, 8, 14])
def test_attention_is_the_softmax_over_its_window_and_the_one_before(length):
    window, num_heads, head_dim, x = 4, 2, 4, _random(1, length, 8)
    bias = jax.random.normal(jax.random.key(5), (num_heads, 4, 8))
    distance = window + np.arange(window)[:, None] - np.arange(2 * window)
    bias = jnp.where(distance >= 0, bias, -1e9)
    module = LocalAttention(num_heads, head_dim)
    params = jax.tree.map(np.asarray, jax.jit(module.init)(jax.random.key(3), x, bias)["params"])
    x = np.asarray(x)
    h = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    query, key, value = np.split(np.asarray(h[0] @ params["qkv"]["kernel"]).reshape(length, 3, 2, 4), 3, axis=1)
    expected = np.zeros((length, num_heads, head_dim))
    for head in range(num_heads):
        for q in range(length):
            start = q // window * window
            seen = np.arange(max(0, start - window), q + 1)
            scores = np.array([query[q, 0, head] @ key[k, 0, head] / np.sqrt(head_dim) for k in seen])
            scores += np.asarray(bias)[head, q - start, seen - start + window]
            weights = np.exp(scores) / np.exp(scores).sum()
            expected[q, head] = weights @ value[seen, 0, head]
    expected = expected.reshape(length, -1) @ params["out"]["kernel"]
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x, bias)[0], expected, atol=1e-5)


def test_attention_is_causal_and_reaches_one_window_back():
    x = _random(1, 20, 8)
    base = _transformer(x, window=4)
    changed = np.asarray(_transformer(x.at[0, 9, 0].add(1.0), window=4) != base).any(axis=-1)[0]
    # Token 9 is in the window 8..11: its own sees it from 9 on, the next one wholly, the one after no more.
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(9, 16))


def test_a_length_that_is_no_multiple_of_the_window_changes_nothing_before_it():
    x = _random(1, 14, 8)
    np.testing.assert_allclose(_transformer(x, 4)[:, :10], _transformer(x[:, :10], 4), atol=1e-5)


@pytest.mark.reliability
def test_biases_of_the_first_layer_keep_the_gradient_at_silence_small():
    """With norms upon norms, whatever is left of a signal that is nearly silent is magnified, and its gradient."""
    loud = 0.3 * _random(1, 960)
    nearly_silent = jnp.where(jnp.arange(960) < 480, loud, 1e-6 * loud)

    def norm(first_bias_std):
        encoder = SQCodecEncoder(widths=(4, 8, 8, 8), init_std=0.0, first_bias_std=first_bias_std, **SMALL)
        params = jax.jit(encoder.init)(jax.random.key(0), loud)

        def loss(params):
            return jnp.mean(_random(1, 10, 16) * encoder.apply(params, nearly_silent))

        gradient = jax.jit(jax.grad(loss))(params)
        return np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))

    assert norm(0.0) > 100 * norm(0.3)
