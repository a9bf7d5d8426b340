"""Reconstruction losses of speech, float32 scalars."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

STFT_SIZES = (32, 64, 128, 256, 512, 1024)  # samples
_HOPS_PER_WINDOW = 4
_TINY = 1e-30  # under the root of a power spectrum: keeps the gradient at silence finite


def l1(reconstruction: jax.Array, signal: jax.Array) -> jax.Array:
    """Mean absolute error over all elements, float32; at most 2, as signals are in [-1, 1]."""
    return jnp.mean(jnp.abs(reconstruction.astype(jnp.float32) - signal))


def multi_scale_stft(
    reconstruction: jax.Array, waveforms: jax.Array, sizes: tuple[int, ...] = STFT_SIZES, *, floor: float = 1e-8
) -> jax.Array:
    """Distance of short-time spectra, averaged over several resolutions.

    At each: `mean | |S| - |S'| | + mean | log10 |S|^2 - log10 |S'|^2 |`, magnitudes raised to a floor in the logarithm;
    periodic Hann windows every quarter of their length, centred, the ends reflected.

    Args:
        reconstruction: `(n, samples)`.
        waveforms: the same shape; more samples than half the largest size.
        sizes: window lengths in samples.
        floor: smallest magnitude in the logarithm; its inverse bounds the gradient. Published: 1e-8.

    Source: arXiv 2504.04949's public training code.
    """
    total = jnp.zeros(())
    for size in sizes:
        ours, theirs = magnitudes(reconstruction, size), magnitudes(waveforms, size)
        logs = (2 * jnp.log10(jnp.maximum(magnitude, floor)) for magnitude in (ours, theirs))
        total += l1(ours, theirs) + l1(*logs)
    return total / len(sizes)


def magnitudes(waveforms: jax.Array, size: int) -> jax.Array:
    """Magnitudes of a short-time Fourier transform, `(n, samples)` to `(n, 1 + samples // hop, size // 2 + 1)`.

    Args:
        waveforms: `(n, samples)`, more samples than half the size.
        size: window length in samples, a multiple of 4; the hop is a quarter of it.
    """
    hop = size // _HOPS_PER_WINDOW
    padded = jnp.pad(waveforms.astype(jnp.float32), ((0, 0), (size // 2, size // 2)), mode="reflect")
    num_frames = 1 + waveforms.shape[1] // hop
    # A window is four hops, so frames are four shifted views, without a gather.
    hops = padded[:, : (num_frames + _HOPS_PER_WINDOW - 1) * hop].reshape(padded.shape[0], -1, hop)
    frames = jnp.concatenate([hops[:, i : i + num_frames] for i in range(_HOPS_PER_WINDOW)], axis=-1)
    # Accelerators would round the factors to fewer bits and add noise to the quiet bins that the logarithm compares.
    spectrum = jnp.matmul(frames, _windowed_fourier(size), precision=jax.lax.Precision.HIGHEST)
    real, imaginary = jnp.split(spectrum, 2, axis=-1)
    return jnp.sqrt(real**2 + imaginary**2 + _TINY)


def _windowed_fourier(size: int) -> np.ndarray:
    """Hann window and real Fourier transform as one matrix, `(size, 2 (size // 2 + 1))`: real parts, imaginary parts.

    The product takes about as long as an FFT of these lengths on CPU; accelerators were not measured.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    transform = np.fft.rfft(np.diag(window), axis=-1)
    return np.concatenate([transform.real, transform.imag], axis=-1).astype(np.float32)


def feature_loss(features: jax.Array, target: jax.Array, *, limit: float = 5.0) -> jax.Array:
    """Squared error of a frozen network's features; values above `limit` are scaled down to it, with their gradient.

    `v = mean over frames of sum over features (features - target)^2`, then `limit * v / stop_gradient(v)` where
    `v >= limit`: the gradient keeps its direction, so bad reconstructions have no more weight than mediocre ones.

    Args:
        features: `(n, frames, width)` of the reconstruction, such as those of `perceptual.whisper.WhisperEncoder`.
        target: those of the signal.
        limit: the largest value, positive.

    Returns:
        `()` float32.

    Source: the perceptual loss of arXiv 2602.17133's codec.
    """
    error = features.astype(jnp.float32) - target.astype(jnp.float32)
    value = jnp.mean(jnp.sum(jnp.square(error), axis=-1))
    return value * (limit / jnp.maximum(jax.lax.stop_gradient(value), limit))
