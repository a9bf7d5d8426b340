"""Files of the weights of frozen networks: reading and writing them."""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from vpvae_jax.runtime.errors import ConfigError, DataError


def parameter_shapes(network: nn.Module, *inputs: jax.ShapeDtypeStruct) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's parameters by name: modules and parameter, joined by dots."""
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(params, sep=".").items()}


def read_params(path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]], network: str) -> dict:
    """Parameters from a safetensors file; nothing in it is executed.

    Args:
        path: the file.
        shapes: shapes of the float32 tensors that it must hold, by name.
        network: network that the weights are for, as `convert.convert` knows it: `lpips`.

    Raises:
        ConfigError: no such file, or other tensors.
    """
    remedy = (
        f"make one with `python -m vpvae_jax.main --mode=convert --network={network} --files=... --output=FILE` "
        f"(the docstring of vpvae_jax.perceptual.{network} names the files)"
    )
    path = pathlib.Path(path).expanduser()
    try:
        tensors = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError, AttributeError) as error:  # the last: types that numpy lacks
        fact = f"{path} is not a safetensors file ({error})" if path.exists() else f"there is no file {path}"
        raise ConfigError(f"weights of {network}: {fact}: {remedy}") from error
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape or tensors[name].dtype.name != "float32":
            found = f"{tensors[name].dtype.name} {tensors[name].shape}" if name in tensors else "nothing"
            raise ConfigError(f"weights of {network}: {path} has {found} as {name}, not float32 {shape}: {remedy}")
        if not np.isfinite(tensors[name]).all():
            raise ConfigError(f"weights of {network}: {path} has NaN or infinity in {name}: {remedy}")
    return traverse_util.unflatten_dict({name: jnp.asarray(tensors[name]) for name in shapes}, sep=".")


def write_params(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], path: pathlib.Path) -> None:
    """Write a file for `read_params`; it is written completely or not at all.

    Raises:
        DataError: a tensor that is missing or of another shape, or a path that cannot be written.
    """
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            found = f"of shape {tensors[name].shape}" if name in tensors else "missing"
            raise DataError(f"{name} is {found} among the weights: expected {shape}, give the published files")
    temporary = path.with_name(f".{path.name}.tmp")
    contiguous = {name: np.ascontiguousarray(tensors[name], np.float32) for name in shapes}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(contiguous, temporary)
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"{path} cannot be written ({error}): choose another file") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def torch_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict that `torch.save` wrote; nothing in the file is executed.

    Raises:
        DataError: torch is not installed, or no such file.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise DataError("reading .pth files needs torch: pip install torch") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in state.items()}
    except Exception as error:  # of torch, of pickle, of the archive
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read ({first}): expected a state dict that torch.save wrote") from error
