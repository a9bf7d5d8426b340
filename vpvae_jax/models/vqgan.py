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
    def __call__(self, images: jax.Array) -> jax.Array:
        res_block, attention_block = _blocks(self.remat)
        x = _conv3x3(self.channels, self.dtype, "stem")(images)
        num_levels = len(self.channel_multipliers)
        for level, multiplier in enumerate(self.channel_multipliers):
            for _ in range(self.num_res_blocks):
                x = res_block(self.channels * multiplier, self.norm, self.dtype)(x)
                if level in self.attention_levels:
                    x = attention_block(self.norm, self.dtype)(x)
            if level < num_levels - 1:
                x = Downsample(self.dtype)(x)
        x = _middle(x, self.middle_attention, self.norm, self.dtype, self.remat)
        x = nn.swish(_normalize(x, self.norm, self.dtype))
        return _conv3x3(self.z_channels, self.dtype, "out")(x)


class VQGANDecoder(nn.Module):
    """Features to images: the mirror of `VQGANEncoder` with one more residual block a level, no final non-linearity.

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
    def __call__(self, features: jax.Array) -> jax.Array:
        res_block, attention_block = _blocks(self.remat)
        x = _conv3x3(self.channels * self.channel_multipliers[-1], self.dtype, "stem")(features)
        x = _middle(x, self.middle_attention, self.norm, self.dtype, self.remat)
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for _ in range(self.num_res_blocks + 1):
                x = res_block(self.channels * multiplier, self.norm, self.dtype)(x)
                if level in self.attention_levels:
                    x = attention_block(self.norm, self.dtype)(x)
            if level > 0:
                x = Upsample(self.dtype)(x)
        x = nn.swish(_normalize(x, self.norm, self.dtype))
        return _conv3x3(self.out_channels, self.dtype, "out")(x)


class ResBlock(nn.Module):
    """Twice GroupNorm, swish, 3 x 3 convolution; a 1 x 1 shortcut where the width changes."""

    features: int
    norm: str = "group"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = _conv3x3(self.features, self.dtype)(nn.swish(_normalize(x, self.norm, self.dtype)))
        h = _conv3x3(self.features, self.dtype)(nn.swish(_normalize(h, self.norm, self.dtype)))
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Residual self-attention over all positions, one head; scores and softmax in float32."""

    norm: str = "group"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        num, height, width, channels = x.shape
        h = _normalize(x, self.norm, self.dtype).reshape(num, height * width, channels)
        query, key, value = (nn.Dense(channels, dtype=self.dtype, name=name)(h) for name in ("query", "key", "value"))
        scores = jnp.einsum("nqc,nkc->nqk", query, key, preferred_element_type=jnp.float32) / math.sqrt(channels)
        h = jnp.einsum("nqk,nkc->nqc", nn.softmax(scores).astype(self.dtype), value)
        return x + nn.Dense(channels, dtype=self.dtype, name="out")(h).reshape(x.shape)


class Downsample(nn.Module):
    """Half the resolution: zeros to the right and below, 3 x 3 convolution of stride 2."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Conv(x.shape[-1], stride=2, padding=(0, 1), dtype=self.dtype)(x)


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a 3 x 3 convolution."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        return _conv3x3(x.shape[-1], self.dtype)(x)


def _middle(x: jax.Array, attention: bool, norm: str, dtype: jnp.dtype, remat: bool) -> jax.Array:
    res_block, attention_block = _blocks(remat)
    x = res_block(x.shape[-1], norm, dtype)(x)
    if attention:
        x = attention_block(norm, dtype)(x)
    return res_block(x.shape[-1], norm, dtype)(x)


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


def _normalize(x: jax.Array, norm: str, dtype: jnp.dtype) -> jax.Array:
    return LayerNorm(dtype)(x) if norm == "layer" else GroupNorm(dtype)(x)
