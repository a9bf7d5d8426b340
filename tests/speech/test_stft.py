import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from vpvae_jax.speech import losses


@pytest.mark.parametrize("size", [losses.STFT_SIZES[0], losses.STFT_SIZES[-1]])
def test_magnitudes_are_those_of_scipy(size):
    x = np.random.default_rng(0).normal(size=1600).astype(np.float32)
    padded = np.pad(x, size // 2, mode="reflect")
    window = scipy.signal.get_window("hann", size)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 4]
    expected = np.abs(np.fft.rfft(frames * window))
    np.testing.assert_allclose(jax.jit(losses.magnitudes, static_argnums=1)(x[None], size)[0], expected, atol=2e-4)


@pytest.mark.parametrize("floor", [1e-8, 1e-2])
def test_distance_is_the_formula_over_all_sizes(floor):
    rng = np.random.default_rng(0)
    ours, theirs = (rng.normal(size=(2, 1600)) * np.geomspace(1, 1e-3, 1600) for _ in range(2))
    terms = []
    for size in (32, 64, 128, 256, 512, 1024):
        window = scipy.signal.get_window("hann", size)
        padded = (np.pad(x, ((0, 0), (size // 2, size // 2)), mode="reflect") for x in (ours, theirs))
        frames = (np.lib.stride_tricks.sliding_window_view(x, size, axis=1)[:, :: size // 4] for x in padded)
        a, b = (np.abs(np.fft.rfft(each * window)) for each in frames)
        logs = np.log10(np.maximum(a, floor) ** 2) - np.log10(np.maximum(b, floor) ** 2)
        terms.append(np.abs(a - b).mean() + np.abs(logs).mean())
    distance = jax.jit(losses.multi_scale_stft)(jnp.asarray(ours), jnp.asarray(theirs), floor=floor)
    np.testing.assert_allclose(distance, np.mean(terms), rtol=1e-3)


def test_distance_is_zero_for_equal_waveforms_and_grows_with_noise():
    x, noise = 0.1 * jax.random.normal(jax.random.key(0), (2, 2, 4000))
    distance = jax.jit(losses.multi_scale_stft)
    distances = [float(distance(x + level * noise, x)) for level in (0.0, 0.1, 1.0)]
    assert distances[0] == 0
    assert distances[0] < distances[1] < distances[2]


def test_gradient_is_finite_at_silence():
    def distance(reconstruction):
        return losses.multi_scale_stft(reconstruction, jnp.full((1, 2000), 0.1), (32, 1024))

    assert jnp.isfinite(jax.jit(jax.grad(distance))(jnp.zeros((1, 2000)))).all()
