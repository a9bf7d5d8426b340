"""Encoder, linear bottleneck, decoder: the network that every quantizer is trained in."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class Autoencoder(nn.Module):
    """An encoder and a decoder joined by a narrow bottleneck, where a quantizer acts.

    Attributes:
        encoder: signal to features `(n, ..., c)`.
        decoder: features to signal.
        feature_dim: c, width of the decoder's input.
        input_dim: width of the encoder side's output, `Quantizer.input_dim`.
        latent_dim: width of the decoder side's input, `Quantizer.latent_dim`; default `input_dim`.
        bottleneck_init_scale: scale of the initial weights of the down-projection, relative to LeCun's. Latents must
            start near 0 for a method that does not regularize them.
    """

    encoder: nn.Module
    decoder: nn.Module
    feature_dim: int
    input_dim: int
    latent_dim: int | None = None
    bottleneck_init_scale: float = 1.0

    def setup(self):
        # float32 whatever the network's compute type: quantizer arithmetic must not lose bits.
        variance = self.bottleneck_init_scale**2
        kernel_init = nn.initializers.variance_scaling(variance, "fan_in", "truncated_normal")
        self.down = nn.Dense(self.input_dim, kernel_init=kernel_init, dtype=jnp.float32)
        self.up = nn.Dense(self.feature_dim, dtype=jnp.float32)

    def encode(self, signal: jax.Array, *size: jax.Array) -> jax.Array:
        """Latents `(n, ..., input_dim)` float32 of a signal, images `(n, height, width, channels)` in [-1, 1].

        A `size` is for the encoder: of images that are padded, see `VQGANEncoder`.
        """
        return self.down(self.encoder(signal, *size))

    def decode(self, z: jax.Array, *size: jax.Array) -> jax.Array:
        """The float32 signal of latents `(n, ..., latent_dim)`; a `size` is for the decoder."""
        return self.decoder(self.up(z), *size).astype(jnp.float32)

    def __call__(self, signal: jax.Array) -> jax.Array:
        """Reconstruction without any quantizer; also initializes all parameters.

        Only the first `latent_dim` dimensions are decoded: where the input is wider, they are the mean of a Gaussian
        posterior.
        """
        return self.decode(self.encode(signal)[..., : self.latent_dim or self.input_dim])
