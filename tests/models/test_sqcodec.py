import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.models import waveform_layers as layers
from vpvae_jax.models.local_attention import LocalTransformer
from vpvae_jax.models.sqcodec import SQCodecDecoder, SQCodecEncoder

SMALL = {"feature_dim": 16, "attention_depth": 1, "attention_window": 8}


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


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


@pytest.mark.parametrize("dilation", [1, 3])
def test_depthwise_convolution_equals_a_grouped_one(dilation):
    x = _random(2, 30, 4)
    module = layers.DepthwiseConv(7, dilation=dilation)
    params = module.init(jax.random.key(1), x)["params"] | {"bias": _random(4, 1, seed=2), "length": _random(4, 1)}
    direction = params["direction"]
    kernel = direction * (params["length"] / jnp.linalg.norm(direction, axis=0))
    expected = jax.lax.conv_general_dilated(
        x,
        kernel.transpose(0, 2, 1),
        (1,),
        [(3 * dilation, 3 * dilation)],
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=4,
    )
    np.testing.assert_allclose(module.apply({"params": params}, x), expected + params["bias"][:, 0], atol=1e-5)


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


def test_product_has_the_gradient_of_a_product():
    x, kernel = _random(2, 5, 3), _random(3, 4, seed=1)
    ours, theirs = (
        jax.grad(lambda x, k, f=f: (f(x, k) ** 3).sum(), (0, 1))(x, kernel) for f in (layers.matmul, jnp.matmul)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def _transformer(x, window):
    module = LocalTransformer(depth=1, num_heads=2, head_dim=4, window=window)
    return module.apply(module.init(jax.random.key(3), x), x)


def test_attention_is_causal_and_reaches_one_window_back():
    x = _random(1, 20, 8)
    base = _transformer(x, window=4)
    changed = np.asarray(_transformer(x.at[0, 9].add(1.0), window=4) != base).any(axis=-1)[0]
    # Token 9 is in the window 8..11: its own sees it from 9 on, the next one wholly, the one after no more.
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(9, 16))


def test_a_length_that_is_no_multiple_of_the_window_changes_nothing_before_it():
    x = _random(1, 14, 8)
    np.testing.assert_allclose(_transformer(x, 4)[:, :10], _transformer(x[:, :10], 4), atol=1e-5)


def test_biases_of_the_first_layer_keep_the_gradient_at_silence_small():
    """With norms upon norms, whatever is left of a signal that is nearly silent is magnified, and its gradient."""
    loud = 0.3 * _random(1, 960)
    nearly_silent = jnp.where(jnp.arange(960) < 480, loud, 1e-6 * loud)

    def norm(first_bias_std):
        encoder = SQCodecEncoder(widths=(4, 8, 8, 8), init_std=0.0, first_bias_std=first_bias_std, **SMALL)
        params = encoder.init(jax.random.key(0), loud)
        gradient = jax.grad(lambda params: jnp.mean(_random(1, 10, 16) * encoder.apply(params, nearly_silent)))(params)
        return np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))

    assert norm(0.0) > 100 * norm(0.3)
