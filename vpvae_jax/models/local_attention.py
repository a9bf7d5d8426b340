"""A causal transformer; its attention reaches back over one to two windows."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

_POSITION_WIDTH = 64  # width of the two hidden layers between a distance and its bias
_MASKED = -1e30


class LocalTransformer(nn.Module):
    """Pre-norm blocks of local attention and GEGLU, `(n, t, c)` to the same shape.

    Attributes:
        depth: number of blocks.
        num_heads: attention heads.
        head_dim: width of a head.
        window: in tokens; a query sees its own window up to itself, and all of the window before.
        dtype: compute type; parameters, scores and softmax are float32.
    """

    depth: int
    num_heads: int = 6
    head_dim: int = 32
    window: int = 400
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.depth == 0:
            return x
        window = min(self.window, x.shape[1])
        bias = PositionBias(self.num_heads, name="position_bias")(window)
        for block in range(self.depth):
            attention = LocalAttention(self.num_heads, self.head_dim, self.dtype, name=f"attention_{block}")
            x = x + attention(x, bias)
            x = x + GEGLU(self.dtype, name=f"feed_forward_{block}")(x)
        return x


class PositionBias(nn.Module):
    """Bias of a score by the distance of key and query, `(num_heads, w, 2 w)`; all blocks share it.

    A window has its own keys and those of the window before.
    """

    num_heads: int

    @nn.compact
    def __call__(self, window: int) -> jax.Array:
        h = jnp.arange(2 * window, dtype=jnp.float32)[:, None]
        h = nn.silu(nn.Dense(_POSITION_WIDTH)(h))
        h = nn.silu(nn.Dense(_POSITION_WIDTH)(h))
        by_distance = nn.Dense(self.num_heads)(h).T  # (num_heads, 2 w)
        distance = window + jnp.arange(window)[:, None] - jnp.arange(2 * window)
        return jnp.where(distance >= 0, by_distance[:, jnp.abs(distance)], _MASKED)


class LocalAttention(nn.Module):
    """Attention of each window to itself, causally, and to the window before; LayerNorm first, no biases."""

    num_heads: int
    head_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        num, length, channels = x.shape
        window = bias.shape[1]
        num_windows = -(-length // window)
        h = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="norm")(x).astype(self.dtype)
        h = jnp.pad(h, ((0, 0), (0, num_windows * window - length), (0, 0)))  # causal: nothing sees the padding
        inner = self.num_heads * self.head_dim
        qkv = nn.Dense(3 * inner, use_bias=False, dtype=self.dtype, name="qkv")(h)
        qkv = qkv.reshape(num, num_windows, window, 3, self.num_heads, self.head_dim)
        query, key, value = qkv[:, :, :, 0], qkv[:, :, :, 1], qkv[:, :, :, 2]
        if num_windows == 1:
            bias = bias[:, :, window:]
        else:
            # The first window has no window before it: mask its zeros, or they take a share of the softmax.
            first = jnp.arange(num_windows)[:, None, None] == 0
            bias = jnp.where(
                first & (jnp.arange(2 * window) < window), _MASKED, bias[:, None]
            )  # (heads, windows, w, 2w)
            bias = bias.swapaxes(0, 1)
            key, value = (_with_window_before(part) for part in (key, value))
        scores = jnp.einsum("nwqhd,nwkhd->nwhqk", query, key, preferred_element_type=jnp.float32)
        weights = nn.softmax(scores / math.sqrt(self.head_dim) + bias).astype(self.dtype)
        h = jnp.einsum("nwhqk,nwkhd->nwqhd", weights, value).reshape(num, num_windows * window, inner)[:, :length]
        return nn.Dense(channels, use_bias=False, dtype=self.dtype, name="out")(h)


class GEGLU(nn.Module):
    """LayerNorm, then `(x W) gelu(x V) U`, 8/3 as wide inside, without biases."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        h = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="norm")(x).astype(self.dtype)
        h = nn.Dense(2 * (8 * channels // 3), use_bias=False, dtype=self.dtype, name="in")(h)
        value, gate = jnp.split(h, 2, axis=-1)
        h = value * nn.gelu(gate, approximate=False)
        return nn.Dense(channels, use_bias=False, dtype=self.dtype, name="out")(h)


def _with_window_before(x: jax.Array) -> jax.Array:
    """`(n, windows, w, ...)` to `(n, windows, 2 w, ...)`."""
    before = jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
    return jnp.concatenate([before, x], axis=2)
