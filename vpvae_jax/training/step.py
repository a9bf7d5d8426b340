"""One update: encode, perturb, decode, differentiate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.quantizers import Quantizer
from vpvae_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


def make_train_step(
    *,
    network: Autoencoder,
    quantizer: Quantizer,
    optimizer: optax.GradientTransformation,
    to_signal: Callable[[jax.Array], jax.Array],
    reconstruction_loss: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Metrics]],
    ema_decay: float = 0.0,
    accumulation_steps: int = 1,
) -> Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]:
    """A pure function `(state, frozen, batch) -> state, metrics`; metrics are float32 scalars.

    `frozen` are the parameters of the reconstruction loss, which no update changes.

    Args:
        network: the autoencoder.
        quantizer: the method; its loss is added to the reconstruction loss.
        optimizer: of all parameters.
        to_signal: from a batch as stored to what the network sees.
        reconstruction_loss: `(frozen, reconstruction, signal) -> loss, its parts`.
        ema_decay: of the running mean of the parameters, used if the state holds one; at most (1 + t) / (10 + t) in
            step t.
        accumulation_steps: parts of a batch that go through the network one after the other, to save memory; one
            update by the mean of their gradients. To the quantizer a part is a batch: L_norm uses the moments of a
            part, and memory, running means and calibration are updated after each.
    """

    def loss_of(params, frozen, quantizer_state, batch, key):
        signal = to_signal(batch)
        z = network.apply({"params": params["network"]}, signal, method="encode")
        flat = z.reshape(-1, quantizer.input_dim)
        z_tilde, quantizer_state, quantizer_loss, info = quantizer.train(
            params["quantizer"], quantizer_state, flat, key
        )
        z_tilde = z_tilde.reshape(*z.shape[:-1], quantizer.latent_dim)
        reconstruction = network.apply({"params": params["network"]}, z_tilde, method="decode")
        loss, parts = reconstruction_loss(frozen, reconstruction, signal)
        loss += quantizer_loss
        return loss, (quantizer_state, {"loss": loss, **parts, "quantizer_loss": quantizer_loss, **info})

    def gradient_of(params, frozen, quantizer_state, batch, key):
        gradient, (quantizer_state, metrics) = jax.grad(loss_of, has_aux=True)(
            params, frozen, quantizer_state, batch, key
        )
        return gradient, quantizer_state, metrics

    def accumulated_gradient_of(params, frozen, quantizer_state, batch, key):
        def add_part(carry, part):
            total, quantizer_state = carry
            batch, number = part
            gradient, quantizer_state, metrics = gradient_of(
                params, frozen, quantizer_state, batch, jax.random.fold_in(key, number)
            )
            return (jax.tree.map(jnp.add, total, gradient), quantizer_state), metrics

        # Every n-th example, so that each part is on all devices as the batch is.
        parts = batch.reshape(-1, accumulation_steps, *batch.shape[1:]).swapaxes(0, 1)
        carry = jax.tree.map(jnp.zeros_like, params), quantizer_state
        (total, quantizer_state), metrics = jax.lax.scan(add_part, carry, (parts, jnp.arange(accumulation_steps)))
        gradient = jax.tree.map(lambda x: x / accumulation_steps, total)
        return gradient, quantizer_state, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

    def train_step(state: TrainState, frozen: Any, batch: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        compute = gradient_of if accumulation_steps == 1 else accumulated_gradient_of
        gradient, quantizer_state, metrics = compute(state.params, frozen, state.quantizer_state, batch, key)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_params is not None:
            # The random start would weigh 1 / (1 - decay) steps long: the mean is short while it is young.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema_params = optax.incremental_update(params, ema_params, 1.0 - decay)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        new_state = TrainState(state.step + 1, params, ema_params, opt_state, quantizer_state, state.key_data)
        return new_state, jax.tree.map(lambda x: x.astype(jnp.float32), metrics)

    return train_step
