"""Encoder and decoder of a speech codec with a single quantizer.

Source: Zhai et al. 2025 (L3AC, arXiv 2504.04949), the public 3 kbit/s configuration: hop 96, 166.67 tokens/s at
16 kHz. arXiv 2602.17133 names its predecessor SQCodec; whether its network is exactly this one is not certain.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vpvae_jax.models.layers import LayerNorm
from vpvae_jax.models.local_attention import LocalTransformer
from vpvae_jax.models.waveform_layers import (
    DepthwiseConv,
    InstanceNorm,
    ScaleAndShift,
    Snake,
    WeightNormConv,
    WeightNormDense,
    trend_pool,
    upsample,
)

_KERNEL = 7
_FIRST_POOLS = (1, 5, 11, 21, 45)
_FIRST_FILTERS = 4  # a branch
_ENHANCE_POOLS, _ENHANCE_DILATIONS = (1, 3, 5, 9), (1, 2, 3, 5)
_TAIL_DILATIONS = (1, 3, 9)
_EXPANSION = 4
_NORM_EPSILON = 1e-8


class SQCodecEncoder(nn.Module):
    """Waveforms to features, `(n, samples)` to `(n, samples / hop, feature_dim)`; hop is the product of the strides.

    A length that is no multiple of the hop is padded with zeros at the end.

    Attributes:
        widths: channels of each stage.
        strides: strides between stages, one fewer than stages.
        depths: units of each stage.
        feature_dim: width of the output.
        attention_depth: blocks of the transformer at the end, 0 for none.
        attention_window: see `LocalTransformer`.
        num_heads: attention heads, each a quarter of `feature_dim` wide.
        init_std: standard deviation of the initial weights; 0 for 1 / sqrt(inputs of an output). In narrow networks
            the published 0.02 is far below that.
        first_bias_std: standard deviation of the first layer's initial biases, published 0. With 0, the chain of norms
            magnifies the rest of a signal in silence, and so the gradient: a million times in a network 8 to 96 wide.
        dtype: compute type; parameters are float32.
    """

    widths: tuple[int, ...] = (24, 48, 96, 192)
    strides: tuple[int, ...] = (6, 4, 4)
    depths: tuple[int, ...] = (1, 1, 1, 2)
    feature_dim: int = 128
    attention_depth: int = 1
    attention_window: int = 400
    num_heads: int = 6
    init_std: float = 0.02
    first_bias_std: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, waveforms: jax.Array) -> jax.Array:
        lacking = -waveforms.shape[1] % math.prod(self.strides)
        x = jnp.pad(waveforms, ((0, 0), (0, lacking)))[..., None].astype(self.dtype)
        x = TrendFilters(self.widths[0], self.init_std, self.first_bias_std, self.dtype, name="first")(x)
        for stage, depth in enumerate(self.depths):
            for _ in range(depth):
                x = ConvUnit(self.init_std, self.dtype)(x)
            if stage < len(self.strides):
                stride = self.strides[stage]
                x = WeightNormConv(
                    self.widths[stage + 1],
                    stride,
                    stride,
                    init_std=self.init_std,
                    dtype=self.dtype,
                    name=f"down_{stage}",
                )(x)
                x = LayerNorm(self.dtype, _NORM_EPSILON, name=f"down_norm_{stage}")(x)
        x = WeightNormConv(self.feature_dim, 3, init_std=self.init_std, dtype=self.dtype, name="out")(x)
        return _transformer(self)(x)


class SQCodecDecoder(nn.Module):
    """Features to waveforms, `(n, t, feature_dim)` to `(n, t * hop)` in (-1, 1).

    Attributes:
        widths: channels of each stage, from the rate of the features to that of the samples.
        rates: upsampling between stages, one fewer than stages.
        depths: units of each stage except the last, which consists of dilated convolutions.
        feature_dim: width of the input.
        Others as in `SQCodecEncoder`.
    """

    widths: tuple[int, ...] = (512, 256, 96, 48, 24)
    rates: tuple[int, ...] = (4, 4, 3, 2)
    depths: tuple[int, ...] = (3, 3, 2, 1)
    feature_dim: int = 128
    attention_depth: int = 3
    attention_window: int = 400
    num_heads: int = 6
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        x = _transformer(self)(features.astype(self.dtype))
        x = WeightNormConv(self.widths[0], 3, init_std=self.init_std, dtype=self.dtype, name="stem")(x)
        for stage, (rate, depth) in enumerate(zip(self.rates, self.depths, strict=True)):
            for _ in range(depth):
                x = ConvUnit(self.init_std, self.dtype)(x)
            x = Enhance(self.init_std, self.dtype)(x)
            x = WeightNormDense(self.widths[stage + 1], self.init_std, dtype=self.dtype, name=f"up_{stage}")(x)
            x = LayerNorm(self.dtype, _NORM_EPSILON, name=f"up_norm_{stage}")(upsample(x, rate))
        for dilation in _TAIL_DILATIONS:
            x = DilatedUnit(dilation, self.init_std, self.dtype)(x)
        x = Snake(self.dtype, name="out_snake")(x)
        return jnp.tanh(WeightNormConv(1, _KERNEL, init_std=self.init_std, dtype=self.dtype, name="out")(x))[..., 0]


class TrendFilters(nn.Module):
    """Map samples and the loudness around each, through short filters, to `features` channels."""

    features: int
    init_std: float = 0.02
    bias_std: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        trends = jnp.concatenate([trend_pool(x, width) for width in _FIRST_POOLS], axis=-1)
        h = DepthwiseConv(_KERNEL, multiplier=_FIRST_FILTERS, init_std=self.init_std, dtype=self.dtype, name="filters")(
            trends
        )
        h = nn.gelu(
            WeightNormDense(_EXPANSION * h.shape[-1], self.init_std, dtype=self.dtype, name="mix")(h), approximate=False
        )
        return WeightNormDense(self.features, self.init_std, self.bias_std, dtype=self.dtype, name="out")(
            jnp.concatenate([h, x], axis=-1)
        )


class ConvUnit(nn.Module):
    """Residual: depthwise convolution, norm, and two layers over the channels with a snake between."""

    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        h = LayerNorm(self.dtype, _NORM_EPSILON, name="norm")(
            DepthwiseConv(_KERNEL, init_std=self.init_std, dtype=self.dtype, name="depthwise")(x)
        )
        h = WeightNormDense(_EXPANSION * channels, self.init_std, dtype=self.dtype, name="in")(h)
        h = ScaleAndShift(self.dtype, name="response")(Snake(self.dtype, name="snake")(h))
        return x + WeightNormDense(channels, self.init_std, dtype=self.dtype, name="out")(h)


class Enhance(nn.Module):
    """`x + y x`: the trends of the first channel, normalized over time, scale all channels."""

    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        trends = jnp.concatenate([trend_pool(x[..., :1], width) for width in _ENHANCE_POOLS], axis=-1)
        y = DepthwiseConv(
            _KERNEL, dilation=_ENHANCE_DILATIONS, init_std=self.init_std, dtype=self.dtype, name="filters"
        )(trends)
        y = InstanceNorm(self.dtype, name="norm")(y)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="out")(y) * x


class DilatedUnit(nn.Module):
    """Residual: snake, dilated convolution, snake, a layer over the channels."""

    dilation: int
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = WeightNormConv(
            x.shape[-1], _KERNEL, dilation=self.dilation, init_std=self.init_std, dtype=self.dtype, name="dilated"
        )
        h = conv(Snake(self.dtype, name="snake_in")(x))
        return x + WeightNormDense(x.shape[-1], self.init_std, dtype=self.dtype, name="out")(
            Snake(self.dtype, name="snake_out")(h)
        )


def _transformer(module: SQCodecEncoder | SQCodecDecoder) -> LocalTransformer:
    return LocalTransformer(
        depth=module.attention_depth,
        num_heads=module.num_heads,
        head_dim=module.feature_dim // 4,
        window=module.attention_window,
        dtype=module.dtype,
        name="transformer",
    )
