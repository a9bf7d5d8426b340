"""Start a training from the parameters of another one."""

from __future__ import annotations

import pathlib
from typing import Any

import flax.traverse_util
import numpy as np

from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.tokenizer import storage
from vpvae_jax.training.checkpoint import Checkpoints
from vpvae_jax.training.loop import abstract_state

_PARTS = {"encoder": ("encoder", "down"), "decoder": ("decoder", "up")}  # modules of the network


def load(experiment: Experiment) -> dict[str, Any]:
    """Parameters of the network to begin with, as far as `train.init_from` says to take them from elsewhere.

    Args:
        experiment: the run that begins.

    Returns:
        A subtree of the network's parameters.

    Raises:
        UserError: no parameters there, or some that do not fit; both shapes are named.
    """
    place = experiment.config.train.init_from
    name, _, part = place.rpartition(":")
    if part not in _PARTS:
        name, part = place, ""
    directory = pathlib.Path(name).expanduser()
    modules = _PARTS.get(part, tuple(module for side in _PARTS.values() for module in side))
    found = flax.traverse_util.flatten_dict(_read(directory), sep="/")
    found = {key: array for key, array in found.items() if key.partition("/")[0] in modules}
    wanted = flax.traverse_util.flatten_dict(experiment.abstract_params(), sep="/")
    wanted = {key: shape for key, shape in wanted.items() if key.partition("/")[0] in modules}
    shapes = {
        key: tuple(str(arrays[key].shape) if key in arrays else "nothing" for arrays in (found, wanted))
        for key in sorted(wanted.keys() | found.keys())
    }
    misfits = [key for key, (there, here) in shapes.items() if there != here]
    if misfits:
        unfit = {key.partition("/")[0] for key in misfits}
        fitting = [side for side, parts in _PARTS.items() if not part and unfit.isdisjoint(parts)]
        there, here = shapes[misfits[0]]
        raise ConfigError(
            f"train.init_from={place} does not fit: {misfits[0]} is {there} there and {here} in this network, set "
            f"model.* and quantizer.latent_dim as there{''.join(f', or take only :{side}' for side in fitting)}"
        )
    return flax.traverse_util.unflatten_dict(found, sep="/")


def _read(directory: pathlib.Path) -> dict[str, Any]:
    """The network's parameters in a work directory or in a tokenizer's."""
    if (directory / layout.CONFIG).exists() and (directory / layout.CHECKPOINTS).is_dir():
        other = Experiment(layout.read_config(directory), is_training=False)
        with Checkpoints(directory / layout.CHECKPOINTS) as checkpoints:
            state = checkpoints.restore(abstract_state(other))
        params = state.params if state.ema_params is None else state.ema_params
        return params["network"]
    arrays, _ = storage.read(layout.tokenizer_of(directory))
    tree = flax.traverse_util.unflatten_dict({key: np.asarray(array) for key, array in arrays.items()}, sep="/")
    return tree["network"]
