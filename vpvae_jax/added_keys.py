"""Keys that configs have got since runs were stored, at the values at which nothing is otherwise than it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections

_OF_BOTH: Mapping[str, Any] = {
    "train.accumulation_steps": 1,
    "train.shard_params": False,
    "checkpoint.keep_best": 0,
    "debug.nans": False,
    "debug.profile_steps": 0,
}
ADDED: Mapping[str, Any] = {
    **_OF_BOTH,
    "model.remat": False,
    "loss.lpips_weight": 0.0,
    "loss.lpips_weights": "",
    "eval.lpips_weights": "",
    "eval.inception_weights": "",
}
_OF_SPEECH = {**_OF_BOTH, "model.bottleneck_init_scale": 1.0}
_BY_NETWORK: dict[str, Mapping[str, Any]] = {"vqgan": ADDED, "sqcodec": _OF_SPEECH}


def with_added_keys(stored: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A stored config as it would be written today; what lacks more than these keys is left for `check_config`."""
    network = stored.get("model", {}).get("name")
    for key, value in _BY_NETWORK.get(network, {}).items():
        section, _, name = key.partition(".")
        if section == "debug" and section not in stored:  # all of it was added
            stored.debug = ml_collections.ConfigDict()
        if section in stored and name not in stored[section]:
            stored[section][name] = value
    return stored
