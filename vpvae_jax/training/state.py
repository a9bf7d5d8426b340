"""Everything a run needs to resume: one pytree, checkpointed, donated and sharded as a whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.quantizers import Quantizer


class TrainState(NamedTuple):
    """The state after `step` updates."""

    step: jax.Array  # () int32
    params: dict[str, Any]  # {"network": ..., "quantizer": ...}
    ema_params: dict[str, Any] | None  # running mean of params, None when off
    opt_state: optax.OptState
    quantizer_state: Any  # memory and the like
    key_data: jax.Array  # uint32 data of the run's key; step t uses fold_in(key, t)


def init_state(
    key: jax.Array,
    *,
    network: Autoencoder,
    quantizer: Quantizer,
    optimizer: optax.GradientTransformation,
    signal_shape: tuple[int, ...],
    use_ema: bool,
) -> TrainState:
    """State before the first step; jit it, all shapes are static.

    Args:
        key: random key; parameters, memory and the run's own key come from it.
        network: the autoencoder.
        quantizer: the method.
        optimizer: its state is initialised for all parameters.
        signal_shape: of one training example as the network sees it.
        use_ema: keep a running mean of the parameters.
    """
    network_key, quantizer_key, run_key = jax.random.split(key, 3)
    quantizer_params, quantizer_state = quantizer.init(quantizer_key)
    network_params = network.init(network_key, jnp.zeros((1, *signal_shape)))["params"]
    params = {"network": network_params, "quantizer": quantizer_params}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params) if use_ema else None,
        opt_state=optimizer.init(params),
        quantizer_state=quantizer_state,
        key_data=jax.random.key_data(run_key),
    )
