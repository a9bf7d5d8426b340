"""The product of a training: a tokenizer that turns images or recordings into indices and back."""

from vpvae_jax.tokenizer.tokenizer import Tokenizer, encode_examples

__all__ = ["Tokenizer", "encode_examples"]
