"""The autoencoder of `vpvae_jax.models` and its training step in plain PyTorch: the peer of `benchmarks.train_step`.

Layer norm and no attention, what `configs/photos.py` uses. Images are NCHW; parameters have the names of ours, so that
ours can be loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

_NORM_EPSILON = 1e-6


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The view is free of copies where memory is channels last."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.scale.shape, self.scale, self.bias, _NORM_EPSILON)
        return x.permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Twice norm, swish, 3 x 3 convolution; a 1 x 1 shortcut where the width changes."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.LayerNorm_0 = ChannelNorm(channels)
        self.Conv_0 = nn.Conv2d(channels, features, 3, padding=1)
        self.LayerNorm_1 = ChannelNorm(features)
        self.Conv_1 = nn.Conv2d(features, features, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, features, 1) if channels != features else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Residual."""
        h = self.Conv_0(F.silu(self.LayerNorm_0(x)))
        h = self.Conv_1(F.silu(self.LayerNorm_1(h)))
        return self.shortcut(x) + h


class Downsample(nn.Module):
    """Half the resolution: zeros to the right and below, 3 x 3 convolution of stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.Conv_0 = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad, convolve."""
        return self.Conv_0(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a 3 x 3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.Conv_0 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Repeat, convolve."""
        return self.Conv_0(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """`VQGANEncoder` without attention."""

    def __init__(self, channels: int, multipliers: tuple[int, ...], num_res_blocks: int, z_channels: int):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        width, blocks = channels, _Numbered()
        for level, multiplier in enumerate(multipliers):
            for _ in range(num_res_blocks):
                blocks.add(ResBlock(width, channels * multiplier))
                width = channels * multiplier
            if level < len(multipliers) - 1:
                blocks.add(Downsample(width))
        blocks.add(ResBlock(width, width))
        blocks.add(ResBlock(width, width))
        self.body = blocks.sequence()
        self.LayerNorm_0 = ChannelNorm(width)
        self.out = nn.Conv2d(width, z_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to features."""
        return self.out(F.silu(self.LayerNorm_0(self.body(self.stem(x)))))


class Decoder(nn.Module):
    """`VQGANDecoder` without attention."""

    def __init__(self, channels: int, multipliers: tuple[int, ...], num_res_blocks: int, z_channels: int):
        super().__init__()
        width, blocks = channels * multipliers[-1], _Numbered()
        self.stem = nn.Conv2d(z_channels, width, 3, padding=1)
        blocks.add(ResBlock(width, width))
        blocks.add(ResBlock(width, width))
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(num_res_blocks + 1):
                blocks.add(ResBlock(width, channels * multiplier))
                width = channels * multiplier
            if level > 0:
                blocks.add(Upsample(width))
        self.body = blocks.sequence()
        self.LayerNorm_0 = ChannelNorm(width)
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features to images."""
        return self.out(F.silu(self.LayerNorm_0(self.body(self.stem(x)))))


class Autoencoder(nn.Module):
    """Encoder, linear bottleneck, decoder; no quantizer."""

    def __init__(
        self, *, channels: int, multipliers: tuple[int, ...], num_res_blocks: int, z_channels: int, latent_dim: int
    ):
        super().__init__()
        self.encoder = Encoder(channels, multipliers, num_res_blocks, z_channels)
        self.down = nn.Conv2d(z_channels, latent_dim, 1)
        self.up = nn.Conv2d(latent_dim, z_channels, 1)
        self.decoder = Decoder(channels, multipliers, num_res_blocks, z_channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruction of images in [-1, 1]."""
        return self.decoder(self.up(self.down(self.encoder(images))))

    def load(self, params: Mapping[str, Any]) -> None:
        """Take the parameters of `vpvae_jax.models.autoencoder.Autoencoder`, all of them."""
        own = {name.replace("body.", ""): parameter for name, parameter in self.named_parameters()}
        theirs = dict(_flatten(params))
        if own.keys() != theirs.keys():
            raise ValueError(f"parameters differ: {sorted(own.keys() ^ theirs.keys())}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(torch.from_numpy(theirs[name].copy()))


def make_train_step(
    model: Autoencoder,
    *,
    l1_weight: float,
    clip_norm: float,
    learning_rate: Callable[[int], float],
    betas: tuple[float, float],
    memory_format: torch.memory_format,
) -> Callable[[np.ndarray], dict[str, torch.Tensor]]:
    """One update, from `(n, height, width, 3)` uint8 pixels to metrics: forward, backward, clip, Adam (fused).

    Metrics stay tensors, as ours stay on the device.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate(0), betas=betas, eps=1e-8, fused=True)
    num_steps = 0

    def train_step(pixels: np.ndarray) -> dict[str, torch.Tensor]:
        nonlocal num_steps
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format)
        images = images / 127.5 - 1.0
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(num_steps)
        optimizer.zero_grad(set_to_none=True)
        loss = l1_weight * (model(images) - images).abs().mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        num_steps += 1
        return {"loss": loss.detach(), "gradient_norm": norm}

    return train_step


class _Numbered:
    """Modules in order, named as flax names those of a compact module: by class and number."""

    def __init__(self):
        self._modules: dict[str, nn.Module] = {}

    def add(self, module: nn.Module) -> None:
        name = type(module).__name__
        number = sum(type(other) is type(module) for other in self._modules.values())
        self._modules[f"{name}_{number}"] = module

    def sequence(self) -> nn.Sequential:
        sequence = nn.Sequential()
        for name, module in self._modules.items():
            sequence.add_module(name, module)
        return sequence


def _flatten(tree: Mapping[str, Any], prefix: str = ""):
    """Names and arrays as PyTorch has them: `weight` for `kernel`, output channels first."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
            continue
        array = np.asarray(value)
        if key == "kernel":
            array = array.reshape((1, 1) * (array.ndim == 2) + array.shape)  # a dense layer is a 1 x 1 convolution
            yield f"{prefix}weight", array.transpose(3, 2, 0, 1)
        else:
            yield f"{prefix}{key}", array
