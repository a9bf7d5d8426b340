"""Encoder, linear bottleneck, decoder: the network every quantizer is trained in."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class Autoencoder(nn.Module):
    """An encoder and a decoder joined by a narrow bottleneck, the place where a quantizer acts.

    Attributes:
        encoder: signal to features `(n, ..., c)`.
        decoder: features to signal.
        feature_dim: c, the width that the decoder is fed.
        input_dim: width of what the encoder side gives, `Quantizer.input_dim`.
        latent_dim: width of what the decoder side takes, `Quantizer.latent_dim`; default `input_dim`.
        bottleneck_init_scale: of the weights that make the latents, relative to LeCun's start; a method that does not
            hold the latents in place itself needs them to start near 0.
    """

    encoder: nn.Module
    decoder: nn.Module
    feature_dim: int
    input_dim: int
    latent_dim: int | None = None
    bottleneck_init_scale: float = 1.0

    def setup(self):
        # float32 whatever the network runs in: quantizer arithmetic must not lose bits.
        variance = self.bottleneck_init_scale**2
        kernel_init = nn.initializers.variance_scaling(variance, "fan_in", "truncated_normal")
        self.down = nn.Dense(self.input_dim, kernel_init=kernel_init, dtype=jnp.float32)
        self.up = nn.Dense(self.feature_dim, dtype=jnp.float32)

    def encode(self, signal: jax.Array) -> jax.Array:
        """Latents `(n, ..., input_dim)` float32 of a signal, images `(n, height, width, channels)` in [-1, 1]."""
        return self.down(self.encoder(signal))

    def decode(self, z: jax.Array) -> jax.Array:
        """The float32 signal of latents `(n, ..., latent_dim)`."""
        return self.decoder(self.up(z)).astype(jnp.float32)

    def __call__(self, signal: jax.Array) -> jax.Array:
        """Reconstruction without any quantizer; also initialises all parameters.

        Of an input wider than the latents the first `latent_dim` are decoded: the mean of a Gaussian posterior.
        """
        return self.decode(self.encode(signal)[..., : self.latent_dim or self.input_dim])
