"""Layers of networks on waveforms, `(n, t, c)` throughout, in forms that XLA's CPU backend runs fast.

A depthwise convolution is a sum of shifted products here, not a grouped convolution: 0.8 ms instead of 42 ms forward
and 7.6 instead of 88 ms with gradient for width 7 over (8, 1600, 48) (2 cores, jax 0.10.2).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vpvae_jax.models.layers import sum_over_positions, to_positions

_INIT_STD = 0.02  # as published
_SNAKE_EPSILON = 1e-8
# Taylor series in the square of an angle below pi / 2: what is left out is 6e-8 and 6e-9.
_SINE_SERIES = tuple((-1) ** i / math.factorial(2 * i + 1) for i in range(6))
_COSINE_SERIES = tuple((-1) ** i / math.factorial(2 * i) for i in range(7))
_PI_HIGH = 3.140625  # exact in few bits, so that multiples are exact too
_PI_LOW = math.pi - _PI_HIGH
_INSTANCE_NORM_EPSILON = 1e-5


class WeightNormDense(nn.Module):
    """`x @ (g v / |v|) + b`: length and direction of each output's weights are separate parameters.

    Attributes:
        features: width of the output.
        init_std: standard deviation of the initial weights, a truncated normal; 0 for 1 / sqrt(inputs of an output).
        bias_std: standard deviation of the initial biases, a normal.
        dtype: compute type; parameters are float32.

    Source: Salimans and Kingma 2016 (arXiv 1602.07868).
    """

    features: int
    init_std: float = _INIT_STD
    bias_std: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = _weight_norm(self, (x.shape[-1], self.features), bias_std=self.bias_std)
        y = matmul(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + to_positions(bias.astype(self.dtype), y.shape)


class WeightNormConv(nn.Module):
    """Convolution over time with normalized weights, `(n, t, c)` to `(n, t', features)`.

    Attributes:
        features: width of the output.
        width: taps, odd; or equal to the stride.
        stride: 1, or the width: windows that do not overlap.
        dilation: samples between taps.
        init_std: see `WeightNormDense`.
        dtype: compute type; parameters are float32.
    """

    features: int
    width: int
    stride: int = 1
    dilation: int = 1
    init_std: float = _INIT_STD
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = _weight_norm(self, (self.width, x.shape[-1], self.features))
        x, kernel, bias = x.astype(self.dtype), kernel.astype(self.dtype), bias.astype(self.dtype)
        if self.stride == self.width:
            windows = x.reshape(x.shape[0], -1, self.width * x.shape[-1])
            y = matmul(windows, kernel.reshape(-1, self.features))
        else:
            reach = self.dilation * (self.width // 2)
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (1,),
                [(reach, reach)],
                rhs_dilation=(self.dilation,),
                dimension_numbers=("NWC", "WIO", "NWC"),
            )
        return y + to_positions(bias, y.shape)


class DepthwiseConv(nn.Module):
    """Convolution of each channel with `multiplier` filters of its own; weights are normalized.

    Attributes:
        width: taps, odd.
        multiplier: filters a channel; channel c gives outputs `c * multiplier ...`.
        dilation: samples between taps, one for all channels or one a channel.
        init_std: see `WeightNormDense`.
        dtype: compute type; parameters are float32.
    """

    width: int
    multiplier: int = 1
    dilation: int | tuple[int, ...] = 1
    init_std: float = _INIT_STD
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        num, length, channels = x.shape
        kernel, bias = _weight_norm(self, (self.width, channels, self.multiplier), num_outputs=2)
        x, kernel, bias = x.astype(self.dtype), kernel.astype(self.dtype), bias.astype(self.dtype)
        dilations = (self.dilation,) * channels if isinstance(self.dilation, int) else self.dilation
        if len(set(dilations)) == 1:
            taps = shifts(x, self.width, dilations[0])
        else:
            each = [shifts(x[..., c : c + 1], self.width, dilation) for c, dilation in enumerate(dilations)]
            taps = [jnp.concatenate(parts, axis=-1) for parts in zip(*each, strict=True)]
        shape = (num, length, channels * self.multiplier)
        y = to_positions(bias.reshape(-1), shape)
        for tap, weights in zip(taps, kernel, strict=True):
            y += jnp.repeat(tap, self.multiplier, axis=-1) * to_positions(weights.reshape(-1), shape)
        return computed_once(y)


class Snake(nn.Module):
    """`x + sin(a x)^2 / a`, with one `a` a channel.

    Source: Liu, Hartwig and Ueda 2020 (arXiv 2006.08195).
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        alpha = self.param("alpha", nn.initializers.ones, x.shape[-1:], jnp.float32).astype(self.dtype)
        return snake(x, alpha)


class ScaleAndShift(nn.Module):
    """`(1 + gamma) x + beta`, one gamma and one beta a channel: what the codec's response normalization amounts to.

    That divides the norm over time and channels together by its own mean, which is 1.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        beta = self.param("beta", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        scale, shift = (to_positions(vector.astype(self.dtype), x.shape) for vector in (1 + gamma, beta))
        return x * scale + shift


class InstanceNorm(nn.Module):
    """Zero mean and unit variance over time for each clip and channel, then scale and shift; float32 inside."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        x = x.astype(jnp.float32)
        mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        return ((x - mean) * jax.lax.rsqrt(variance + _INSTANCE_NORM_EPSILON) * scale + bias).astype(self.dtype)


@jax.custom_vjp
def computed_once(x: jax.Array) -> jax.Array:
    """`x`; its gradient is computed once, before it is used. XLA would compute it again for each tap that reads it."""
    return x


computed_once.defvjp(lambda x: (x, None), lambda _, cotangent: (jax.lax.optimization_barrier(cotangent),))


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, `(..., c)` with `(c, features)`.

    JAX's own gradient of the kernel is the transpose of a product, for which XLA's CPU backend copies an operand in
    transposed order: the most expensive instruction in a trace of a unit's gradient at (8, 9600, 16).
    """
    return x @ kernel


def _matmul_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _matmul_backward(residual, cotangent):
    x, kernel = residual
    flat, flat_cotangent = x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    by_kernel = jax.lax.dot_general(flat, flat_cotangent, (((0,), (0,)), ((), ())))
    return cotangent @ kernel.T, by_kernel


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def snake(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """`x + sin(alpha x)^2 / alpha`, `(..., c)` with `(c,)`.

    XLA's sine on CPU takes ten times as long as its tanh. With the polynomial and the derivative written out, the
    gradient at (8, 9600, 64) takes 10 ms instead of 87 (2 cores, jax 0.10.2). Float32 inside whatever the type:
    bfloat16 has too few bits to remove whole turns.
    """
    dtype = x.dtype
    x, alpha = x.astype(jnp.float32), alpha.astype(jnp.float32)
    sine, _ = _sine_and_cosine(x * alpha)
    return (x + sine**2 / (alpha + _SNAKE_EPSILON)).astype(dtype)


def _snake_forward(x, alpha):
    return snake(x, alpha), (x, alpha)


def _snake_backward(residual, cotangent):
    dtypes = [array.dtype for array in residual]
    x, alpha, cotangent = (array.astype(jnp.float32) for array in (*residual, cotangent))
    inverse = jnp.broadcast_to(1 / (alpha + _SNAKE_EPSILON), x.shape)
    sine, cosine = _sine_and_cosine(x * alpha)
    sine_of_twice = 2 * sine * cosine
    by_alpha = cotangent * (x * sine_of_twice - sine**2 * inverse) * inverse
    return (cotangent * (1 + sine_of_twice)).astype(dtypes[0]), sum_over_positions(by_alpha).astype(dtypes[1])


snake.defvjp(_snake_forward, _snake_backward)


def _sine_and_cosine(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine, up to a sign that both share, within 2.1e-7 for angles up to 300 (measured)."""
    half_turns = jnp.round(theta * (1 / math.pi))
    r = (theta - half_turns * _PI_HIGH) - half_turns * _PI_LOW  # in [-pi / 2, pi / 2]
    square = r * r
    return r * _polynomial(square, _SINE_SERIES), _polynomial(square, _COSINE_SERIES)


def _polynomial(x: jax.Array, coefficients: tuple[float, ...]) -> jax.Array:
    y = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        y = y * x + coefficient
    return y


def trend_pool(x: jax.Array, width: int) -> jax.Array:
    """Maximum and then mean of `|x|` over `width` samples, with zeros beyond the ends; `x` itself for a width of 1.

    Args:
        x: `(n, t, c)`.
        width: odd.
    """
    if width == 1:
        return x
    reach = width // 2
    padded = jnp.pad(jnp.abs(x), ((0, 0), (reach, reach), (0, 0)))  # |x| >= 0: zeros do not change a maximum
    peaks = jnp.pad(_sliding(jnp.maximum, padded, width), ((0, 0), (reach, reach), (0, 0)))
    return _sliding(jnp.add, peaks, width) / width


def upsample(x: jax.Array, factor: int) -> jax.Array:
    """Linear interpolation to `factor` times as many samples, `(n, t, c)` to `(n, t * factor, c)`.

    The centres of samples are aligned; the ends repeat.
    """
    before = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
    after = jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5  # from the sample's centre, in samples of x
        neighbor = before if offset < 0 else after
        phases.append(x * (1 - abs(offset)) + neighbor * abs(offset))
    return jnp.stack(phases, axis=2).reshape(x.shape[0], -1, x.shape[-1])


def shifts(x: jax.Array, width: int, dilation: int = 1) -> list[jax.Array]:
    """The `width` inputs of each output of a convolution over time, zeros beyond the ends, each `(n, t, c)`."""
    reach = dilation * (width // 2)
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    return [padded[:, tap * dilation : tap * dilation + x.shape[1]] for tap in range(width)]


def _sliding(combine: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, width: int) -> jax.Array:
    """`combine` over all windows of `width`, `(n, t, c)` to `(n, t - width + 1, c)`, in about 2 log2(width) steps."""
    num_windows = x.shape[1] - width + 1
    parts, start, span, doubled = [], 0, 1, x
    while span <= width:
        if width & span:  # the window has one part for each bit of its width
            parts.append(doubled[:, start : start + num_windows])
            start += span
        if 2 * span <= width:
            doubled = combine(doubled[:, :-span], doubled[:, span:])
        span *= 2
    return functools.reduce(combine, parts)


def _weight_norm(
    module: nn.Module, shape: tuple[int, ...], num_outputs: int = 1, bias_std: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Normalized weights of a shape, its last axes the outputs, and one bias an output."""
    axes = tuple(range(len(shape) - num_outputs))
    outputs = shape[len(axes) :]
    std = module.init_std or 1 / math.sqrt(math.prod(shape[: len(axes)]))
    direction = module.param("direction", nn.initializers.truncated_normal(std), shape, jnp.float32)
    norm = jnp.sqrt(jnp.sum(direction**2, axis=axes))
    length = module.param("length", lambda key: norm)
    bias = module.param("bias", nn.initializers.normal(bias_std), outputs, jnp.float32)
    return direction * (length / norm), bias
