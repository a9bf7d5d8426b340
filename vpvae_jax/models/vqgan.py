"""Convolutional encoder and decoder of VQGAN.

Source: Esser et al. 2021 (arXiv 2012.09841) as configured for f = 8 in Rombach et al. 2022 (arXiv 2112.10752).
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vpvae_jax.models.layers import Conv, GroupNorm, LayerNorm


class VQGANEncoder(nn.Module):
    """Images to a grid of features, `(n, h, w, c)` to `(n, h / f, w / f, z_channels)` with `f = 2^(levels - 1)`.

    With `size`, `(2,)` int32 rows and columns of features, the image is the upper left part and the rest is padding
    without influence: images of many sizes share one program and have the features they have alone, up to rounding.

    Attributes:
        channels: width of the first level.
        channel_multipliers: width of each level in units of `channels`; the resolution is halved between levels.
        num_res_blocks: residual blocks a level.
        attention_levels: levels with self-attention after each block (published for f = 8: the last, 32 x 32).
        middle_attention: self-attention between the two residual blocks of the middle. Turn it off to use images
            much larger than the training crops.
        norm: `group`, as published: its statistics depend on the size of the image. `layer`, over the channels of each
            position, is the same for small training crops and large images.
        z_channels: width of the output.
        dtype: compute type; parameters are float32.
        remat: recompute the inside of blocks in the backward pass: less memory, more time.
    """

    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (3,)
    middle_attention: bool = True
    norm: str = "group"
    z_channels: int = 4
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, size: jax.Array | None = None) -> jax.Array:
        res_block, attention_block = _blocks(self.remat)
        num_levels = len(self.channel_multipliers)
        inside = _inside(size, images.shape[1:3], 2 ** (num_levels - 1))
        x = _conv3x3(self.channels, self.dtype, "stem")(images, inside)
        for level, multiplier in enumerate(self.channel_multipliers):
            for _ in range(self.num_res_blocks):
                x = res_block(self.channels * multiplier, self.norm, self.dtype)(x, inside)
                if level in self.attention_levels:
                    x = attention_block(self.norm, self.dtype)(x, inside)
            if level < num_levels - 1:
                x = Downsample(self.dtype)(x, inside)
                inside = _inside(size, x.shape[1:3], 2 ** (num_levels - 2 - level))
        x = _middle(x, inside, self.middle_attention, self.norm, self.dtype, self.remat)
        x = nn.swish(_normalize(x, inside, self.norm, self.dtype))
        return _conv3x3(self.z_channels, self.dtype, "out")(x, inside)


class VQGANDecoder(nn.Module):
    """Features to images: the mirror of `VQGANEncoder` with one more residual block a level, no final non-linearity.

    With `size`, rows and columns, the features are the upper left part, see `VQGANEncoder`.

    Attributes:
        out_channels: channels of the image.
        Others as in `VQGANEncoder`.
    """

    out_channels: int = 3
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (3,)
    middle_attention: bool = True
    norm: str = "group"
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, features: jax.Array, size: jax.Array | None = None) -> jax.Array:
        res_block, attention_block = _blocks(self.remat)
        num_levels = len(self.channel_multipliers)
        inside = _inside(size, features.shape[1:3], 1)
        x = _conv3x3(self.channels * self.channel_multipliers[-1], self.dtype, "stem")(features, inside)
        x = _middle(x, inside, self.middle_attention, self.norm, self.dtype, self.remat)
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for _ in range(self.num_res_blocks + 1):
                x = res_block(self.channels * multiplier, self.norm, self.dtype)(x, inside)
                if level in self.attention_levels:
                    x = attention_block(self.norm, self.dtype)(x, inside)
            if level > 0:
                inside = _inside(size, (2 * x.shape[1], 2 * x.shape[2]), 2 ** (num_levels - level))
                x = Upsample(self.dtype)(x, inside)
        x = nn.swish(_normalize(x, inside, self.norm, self.dtype))
        return _conv3x3(self.out_channels, self.dtype, "out")(x, inside)


def context(num_levels: int, num_res_blocks: int) -> tuple[int, int]:
    """How far encoder and decoder look without attention and with `norm="layer"`: pixels, and positions of features.

    A feature depends on pixels at most so far from the `f x f` pixels at its place; a pixel likewise on features.
    """
    encoder = 1 + 4  # the last convolution and the middle
    for level in reversed(range(num_levels)):
        encoder += 2 * num_res_blocks
        if level > 0:
            encoder = 2 * encoder + 1  # of a level that is twice as fine; the convolution looks one to the right
    decoder = 1
    for level in range(num_levels):
        decoder += 2 * (num_res_blocks + 1)
        if level < num_levels - 1:
            decoder = -(-(decoder + 1) // 2)
    return encoder + 1, decoder + 4 + 1


class ResBlock(nn.Module):
    """Twice GroupNorm, swish, 3 x 3 convolution; a 1 x 1 shortcut where the width changes."""

    features: int
    norm: str = "group"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None = None) -> jax.Array:
        h = _conv3x3(self.features, self.dtype)(nn.swish(_normalize(x, inside, self.norm, self.dtype)), inside)
        h = _conv3x3(self.features, self.dtype)(nn.swish(_normalize(h, inside, self.norm, self.dtype)), inside)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Residual self-attention over all positions, one head; scores and softmax in float32."""

    norm: str = "group"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None = None) -> jax.Array:
        num, height, width, channels = x.shape
        h = _normalize(x, inside, self.norm, self.dtype).reshape(num, height * width, channels)
        query, key, value = (nn.Dense(channels, dtype=self.dtype, name=name)(h) for name in ("query", "key", "value"))
        scores = jnp.einsum("nqc,nkc->nqk", query, key, preferred_element_type=jnp.float32) / math.sqrt(channels)
        if inside is not None:
            scores = jnp.where(inside.reshape(1, 1, height * width), scores, -jnp.inf)
        h = jnp.einsum("nqk,nkc->nqc", nn.softmax(scores).astype(self.dtype), value)
        return x + nn.Dense(channels, dtype=self.dtype, name="out")(h).reshape(x.shape)


class Downsample(nn.Module):
    """Half the resolution: zeros to the right and below, 3 x 3 convolution of stride 2."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None = None) -> jax.Array:
        return Conv(x.shape[-1], stride=2, padding=(0, 1), dtype=self.dtype)(x, inside)


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a 3 x 3 convolution; `inside` is a mask of the output."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None = None) -> jax.Array:
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        return _conv3x3(x.shape[-1], self.dtype)(x, inside)


def _middle(
    x: jax.Array, inside: jax.Array | None, attention: bool, norm: str, dtype: jnp.dtype, remat: bool
) -> jax.Array:
    res_block, attention_block = _blocks(remat)
    x = res_block(x.shape[-1], norm, dtype)(x, inside)
    if attention:
        x = attention_block(norm, dtype)(x, inside)
    return res_block(x.shape[-1], norm, dtype)(x, inside)


def _inside(size: jax.Array | None, grid: tuple[int, ...], scale: int) -> jax.Array | None:
    """A mask `(1, height, width, 1)` of the upper left `size * scale` positions of a grid; None without a size."""
    if size is None:
        return None
    rows, columns = (jnp.arange(length) < size[axis] * scale for axis, length in enumerate(grid))
    return (rows[:, None] & columns)[None, :, :, None]


def _blocks(remat: bool) -> tuple[type[ResBlock], type[AttentionBlock]]:
    """The blocks; with `remat`, blocks that keep only their input. Names, and so parameters, are the same."""
    if not remat:
        return ResBlock, AttentionBlock
    blocks = tuple(nn.remat(block) for block in (ResBlock, AttentionBlock))
    for block, plain in zip(blocks, (ResBlock, AttentionBlock), strict=True):
        block.__name__ = plain.__name__
    return blocks


def _conv3x3(features: int, dtype: jnp.dtype, name: str | None = None) -> Conv:
    return Conv(features, dtype=dtype, name=name)


def _normalize(x: jax.Array, inside: jax.Array | None, norm: str, dtype: jnp.dtype) -> jax.Array:
    return LayerNorm(dtype)(x) if norm == "layer" else GroupNorm(dtype)(x, inside)
