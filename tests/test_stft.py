import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from vpvae_jax import losses


@pytest.mark.parametrize("size", losses.STFT_SIZES)
def test_magnitudes_are_those_of_scipy(size):
    x = np.random.default_rng(0).normal(size=1600).astype(np.float32)
    padded = np.pad(x, size // 2, mode="reflect")
    window = scipy.signal.get_window("hann", size)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 4]
    expected = np.abs(np.fft.rfft(frames * window))
    np.testing.assert_allclose(losses.magnitudes(jnp.asarray(x[None]), size)[0], expected, atol=2e-4)


def test_distance_is_zero_for_equal_waveforms_and_grows_with_noise():
    x, noise = 0.1 * jax.random.normal(jax.random.key(0), (2, 2, 4000))
    distances = [float(losses.multi_scale_stft(x + level * noise, x)) for level in (0.0, 0.1, 1.0)]
    assert distances[0] == 0
    assert distances[0] < distances[1] < distances[2]


def test_gradient_is_finite_at_silence():
    gradient = jax.grad(lambda x: losses.multi_scale_stft(x, jnp.ones((1, 2000)) * 0.1))(jnp.zeros((1, 2000)))
    assert jnp.isfinite(gradient).all()
