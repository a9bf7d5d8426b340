"""Images of any size: padded or in windows they have the latents, and latents the pixels, of the whole image."""

import functools

import jax
import numpy as np
import pytest

from tests.models.test_vqgan import random_params, small_autoencoder
from vpvae_jax.images.windows import Windows, _spans, decode_windows, encode_windows
from vpvae_jax.models.vqgan import context

TOLERANCE = 2e-5  # of values of about 1: sums in another order
PIXELS, POSITIONS = context(num_levels=2, num_res_blocks=1)
CONTEXTS = -(-PIXELS // 2), POSITIONS
LOCAL = {"norm": "layer", "attention": False}


@functools.cache
def functions(norm, attention):
    """Encode and decode of a network of stride 2, with and without a size."""
    network = small_autoencoder(norm=norm, attention=attention)
    params = random_params(network, 1, 16, 16, 3)
    encode = jax.jit(lambda x, *size: network.apply({"params": params}, x / 127.5 - 1, *size, method="encode"))
    decode = jax.jit(lambda z, *size: network.apply({"params": params}, z, *size, method="decode"))
    return encode, decode


def images(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, 2 * height, 2 * width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("norm", "attention"),
    [
        pytest.param("layer", False, marks=pytest.mark.system),
        pytest.param("group", False, marks=pytest.mark.system),
        ("group", True),
    ],
)
def test_padding_has_no_influence(norm, attention):
    encode, decode = functions(norm, attention)
    windows, x = Windows(2, None, *CONTEXTS), images(9, 17)
    z = encode(x)
    np.testing.assert_allclose(encode_windows(windows, encode, x), z, atol=TOLERANCE)
    np.testing.assert_allclose(decode_windows(windows, decode, z), decode(z), atol=TOLERANCE)


def test_windows_have_no_seams():
    encode, decode = functions(**LOCAL)
    side = 2 * max(CONTEXTS) + 5
    windows, x = Windows(2, side, *CONTEXTS), images(side + 21, side - 4)
    z = encode(x)
    np.testing.assert_allclose(encode_windows(windows, encode, x), z, atol=TOLERANCE)
    np.testing.assert_allclose(decode_windows(windows, decode, z), decode(z), atol=TOLERANCE)


def test_the_network_looks_as_far_as_stated_and_no_farther():
    """By gradients, which are exactly zero beyond."""
    encode, decode = functions(**LOCAL)

    def reach(function, inputs, output):
        gradient = np.abs(jax.grad(lambda inputs: function(inputs)[0, output, output].sum())(inputs)[0]).sum(axis=-1)
        return np.flatnonzero(gradient.any(axis=1))[[0, -1]]

    x = images(40, 40)[:1]
    first, last = reach(encode, x, 20)
    assert max(2 * 20 - first, last - 2 * 20 - 1) == PIXELS
    first, last = reach(decode, encode(x), 40)
    assert max(20 - first, last - 20) == POSITIONS


@pytest.mark.parametrize(("side", "around"), [(9, 4), (16, 3), (64, 11), (20, 0)])
def test_windows_cover_a_side_once_with_context(side, around):
    for length in range(1, 300):
        spans = _spans(length, side, around)
        assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])]
        assert spans[-1].last == length
        assert len({span.stop - span.start for span in spans}) == 1
        for start, stop, first, last, padded in spans:
            assert 0 <= start <= first < last <= stop <= length
            assert stop - start <= padded <= side
            assert stop - start == padded or len(spans) == 1
            assert first - start >= around or start == 0
            assert stop - last >= around or stop == length


def test_few_shapes_serve_many_sizes():
    seen = set()

    def encode(x, size):
        seen.add(x.shape[1:3])
        return np.zeros((len(x), x.shape[1] // 2, x.shape[2] // 2, 1))

    for height in range(20, 180, 7):
        for width in range(20, 180, 9):
            x = np.zeros((1, 2 * height, 2 * width, 3), np.uint8)
            assert encode_windows(Windows(2, 64, 5, 6), encode, x).shape == (1, height, width, 1)
    assert len(seen) <= 6**2  # 24, 32, 48 and 64, and windows of 48, 56 and 64
