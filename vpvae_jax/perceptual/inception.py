"""Inception v3 as rFID uses it, frozen: the features before its classifier.

Source: Szegedy et al. 2016 (arXiv 1512.00567); weights and details of 2015-12-05, which Heusel et al. 2017 (arXiv
1706.08500) used and pytorch-fid publishes: average pooling ignores the padding, the last block pools by maximum.

The weights are not in this package. Make their file once, with torch installed, from
pt_inception-2015-12-05-6726825d.pth, which is in a release of mseitzer/pytorch-fid:

    python -m vpvae_jax.main --mode=convert --network=inception --files=PTH_FILE --output=inception.safetensors
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vpvae_jax.perceptual.frozen import parameter_shapes, read_params, torch_tensors
from vpvae_jax.runtime.errors import DataError
from vpvae_jax.runtime.files import sha256

FEATURES = 2048
_SIDE = 299  # pixels that the network sees
_BATCH_NORM_EPSILON = 1e-3
_PUBLISHED_NAME = "pt_inception-2015-12-05-6726825d.pth"
_PUBLISHED_SHA256 = "6726825d"  # its beginning, which the name holds


class InceptionV3(nn.Module):
    """Images `(n, h, w, 3)` in [-1, 1], resized to 299 x 299 without antialiasing, to features `(n, 2048)` float32.

    Batch normalization is folded into the kernels and biases of the convolutions.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = (images.shape[0], _SIDE, _SIDE, images.shape[3])
        x = jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=False)
        x = _conv("Conv2d_1a_3x3", 32, 3, stride=2, padding="VALID")(x)
        x = _conv("Conv2d_2a_3x3", 32, 3, padding="VALID")(x)
        x = _conv("Conv2d_2b_3x3", 64, 3)(x)
        x = _max_pool(x)
        x = _conv("Conv2d_3b_1x1", 80, 1)(x)
        x = _conv("Conv2d_4a_3x3", 192, 3, padding="VALID")(x)
        x = _max_pool(x)
        for name, pool_width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = _BlockA(pool_width, name=name)(x)
        x = _BlockB(name="Mixed_6a")(x)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = _BlockC(width, name=name)(x)
        x = _BlockD(name="Mixed_7a")(x)
        x = _BlockE(_average_pool, name="Mixed_7b")(x)
        x = _BlockE(_max_pool_same, name="Mixed_7c")(x)
        return x.mean(axis=(1, 2))


class _Conv(nn.Module):
    """Convolution with a bias, then ReLU."""

    width: int
    size: tuple[int, int]
    stride: int
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, self.size, strides=self.stride, padding=self.padding, name="conv")(x)
        return nn.relu(x)


class _BlockA(nn.Module):
    pool_width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _joined(
            _conv("branch1x1", 64, 1)(x),
            _chain(x, _conv("branch5x5_1", 48, 1), _conv("branch5x5_2", 64, 5)),
            _chain(x, _conv("branch3x3dbl_1", 64, 1), _conv("branch3x3dbl_2", 96, 3), _conv("branch3x3dbl_3", 96, 3)),
            _conv("branch_pool", self.pool_width, 1)(_average_pool(x)),
        )


class _BlockB(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _joined(
            _conv("branch3x3", 384, 3, stride=2, padding="VALID")(x),
            _chain(
                x,
                _conv("branch3x3dbl_1", 64, 1),
                _conv("branch3x3dbl_2", 96, 3),
                _conv("branch3x3dbl_3", 96, 3, stride=2, padding="VALID"),
            ),
            _max_pool(x),
        )


class _BlockC(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, row, column = self.width, (1, 7), (7, 1)
        return _joined(
            _conv("branch1x1", 192, 1)(x),
            _chain(
                x,
                _conv("branch7x7_1", width, 1),
                _conv("branch7x7_2", width, row),
                _conv("branch7x7_3", 192, column),
            ),
            _chain(
                x,
                _conv("branch7x7dbl_1", width, 1),
                _conv("branch7x7dbl_2", width, column),
                _conv("branch7x7dbl_3", width, row),
                _conv("branch7x7dbl_4", width, column),
                _conv("branch7x7dbl_5", 192, row),
            ),
            _conv("branch_pool", 192, 1)(_average_pool(x)),
        )


class _BlockD(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _joined(
            _chain(x, _conv("branch3x3_1", 192, 1), _conv("branch3x3_2", 320, 3, stride=2, padding="VALID")),
            _chain(
                x,
                _conv("branch7x7x3_1", 192, 1),
                _conv("branch7x7x3_2", 192, (1, 7)),
                _conv("branch7x7x3_3", 192, (7, 1)),
                _conv("branch7x7x3_4", 192, 3, stride=2, padding="VALID"),
            ),
            _max_pool(x),
        )


class _BlockE(nn.Module):
    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        single = _conv("branch3x3_1", 384, 1)(x)
        double = _chain(x, _conv("branch3x3dbl_1", 448, 1), _conv("branch3x3dbl_2", 384, 3))
        return _joined(
            _conv("branch1x1", 320, 1)(x),
            _conv("branch3x3_2a", 384, (1, 3))(single),
            _conv("branch3x3_2b", 384, (3, 1))(single),
            _conv("branch3x3dbl_3a", 384, (1, 3))(double),
            _conv("branch3x3dbl_3b", 384, (3, 1))(double),
            _conv("branch_pool", 192, 1)(self.pool(x)),
        )


def _conv(name: str, width: int, size: int | tuple[int, int], stride: int = 1, padding: str = "SAME") -> _Conv:
    return _Conv(width, (size, size) if isinstance(size, int) else size, stride, padding, name=name)


def _chain(x: jax.Array, *layers: _Conv) -> jax.Array:
    for layer in layers:
        x = layer(x)
    return x


def _joined(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _max_pool_same(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding="SAME")


def _average_pool(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def load_inception(path: str | os.PathLike[str]) -> tuple[InceptionV3, dict]:
    """The network and its weights, from a file that `convert.convert` wrote.

    Returns:
        `network, params`, used as `network.apply({"params": params}, images)`.

    Raises:
        ConfigError: no such file, or not the weights of this network.
    """
    return InceptionV3(), read_params(path, inception_shapes(), "inception")


def inception_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a file: `Conv2d_1a_3x3.conv.kernel` (height, width, inputs, outputs), ..."""
    return parameter_shapes(InceptionV3(), jax.ShapeDtypeStruct((1, _SIDE, _SIDE, 3), jnp.float32))


def from_torch(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors by our names, from those of pytorch-fid; folds batch normalization into kernels and biases.

    Raises:
        DataError: a tensor that is missing.
    """
    tensors: dict[str, np.ndarray] = {}
    try:
        for name in sorted(
            {name.removesuffix(".conv.kernel") for name in inception_shapes() if name.endswith("kernel")}
        ):
            scale, shift, mean, variance = (
                state[f"{name}.bn.{part}"].astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            factor = scale / np.sqrt(variance + _BATCH_NORM_EPSILON)
            kernel = state[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * factor
            tensors |= {f"{name}.conv.kernel": kernel, f"{name}.conv.bias": shift - mean * factor}
    except KeyError as error:
        raise DataError(f"the file lacks {error}: expected {_PUBLISHED_NAME}") from error
    return tensors


def read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`, by our names.

    Raises:
        DataError: torch is not installed, no such file, or another one.
    """
    try:
        digest = sha256(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): expected {_PUBLISHED_NAME}") from error
    if not digest.startswith(_PUBLISHED_SHA256):
        raise DataError(f"{path} is another file (sha256 {digest}) than {_PUBLISHED_NAME}: download that one")
    return from_torch(torch_tensors(path))
