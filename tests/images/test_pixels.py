import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.images.pixels import to_pixels, to_signal

ALL_PIXELS = np.arange(256, dtype=np.uint8)


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit], ids=["eager", "jit"])
def test_round_trip_of_every_value_is_exact(wrap):
    restored = wrap(lambda pixels: to_pixels(to_signal(pixels)))(ALL_PIXELS)
    assert restored.dtype == jnp.uint8
    np.testing.assert_array_equal(restored, ALL_PIXELS)


def test_signal_spans_minus_one_to_one():
    signal = to_signal(ALL_PIXELS)
    assert signal.dtype == jnp.float32
    assert signal[0] == -1.0
    assert signal[-1] == 1.0
    np.testing.assert_allclose(np.diff(signal), 2 / 255, atol=1e-6)


def test_out_of_range_is_clipped_not_wrapped():
    signal = jnp.array([-jnp.inf, -7.0, -1.004, -1.0, 1.0, 1.004, 3.0, jnp.inf])
    np.testing.assert_array_equal(to_pixels(signal), [0, 0, 0, 0, 255, 255, 255, 255])


@pytest.mark.parametrize(("level", "pixel"), [(99.51, 100), (100.49, 100), (100.51, 101), (0.49, 0), (254.51, 255)])
def test_rounds_to_the_nearest_level(level, pixel):
    assert to_pixels(jnp.float32(level / 127.5 - 1)) == pixel


def test_half_rounds_to_even():
    assert to_pixels(jnp.float32(0.0)) == 128  # 127.5


def test_shape_is_kept():
    assert to_signal(np.zeros((2, 4, 6, 3), np.uint8)).shape == (2, 4, 6, 3)
    assert to_pixels(jnp.zeros((2, 4, 6, 3))).shape == (2, 4, 6, 3)
