"""Loading a tokenizer where its training was not."""

import itertools

import jax
import numpy as np

from vpvae_jax.tokenizer import Tokenizer
from vpvae_jax.tokenizer import tokenizer as module


def test_a_tokenizer_does_not_care_how_many_devices_there_are(trained, monkeypatch):
    """Its training's batch of 4 does not divide over 3."""
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    assert Tokenizer.load(trained).codebook_size == 16


def test_images_of_many_sizes_share_programs(trained):
    tokenizer = Tokenizer.load(trained)
    stride, rng = tokenizer.stride, np.random.default_rng(0)
    for rows, columns in itertools.product((5, 6), (9, 10, 11, 12)):
        images = rng.integers(0, 256, (1, rows * stride, columns * stride, 3), np.uint8)
        indices = tokenizer.encode(images)
        assert indices.shape == (1, rows, columns)
        assert tokenizer.decode(indices).shape == images.shape
    assert tokenizer._to_latents._cache_size() == tokenizer._to_examples._cache_size() == 1
    assert tokenizer._to_indices._cache_size() == tokenizer._to_codes._cache_size() == 3  # 45 to 72: 48, 64 and 96


def test_no_image(trained):
    tokenizer = Tokenizer.load(trained)
    side = 4 * tokenizer.stride
    assert tokenizer.encode(np.zeros((0, side, side, 3), np.uint8)).shape == (0, 4, 4)


def test_inside_a_program_of_the_caller(trained):
    tokenizer, images = Tokenizer.load(trained), _black(Tokenizer.load(trained))
    np.testing.assert_array_equal(jax.jit(tokenizer.encode)(images), tokenizer.encode(images))
    z = tokenizer.latents(images)
    np.testing.assert_array_equal(jax.jit(tokenizer.decode_latents)(z), tokenizer.decode_latents(z))


def test_an_image_has_the_tokens_of_its_batch(trained):
    tokenizer = Tokenizer.load(trained)
    side = 7 * tokenizer.stride
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    np.testing.assert_array_equal(tokenizer.encode(images)[1:2], tokenizer.encode(images[1:2]))


def test_more_tokens_than_are_quantized_at_a_time(trained, monkeypatch):
    tokenizer = Tokenizer.load(trained)
    z = np.random.default_rng(0).normal(size=(2, 5, 9, tokenizer.latents(_black(tokenizer)).shape[-1]))
    whole = tokenizer.encode_latents(z.astype(np.float32))
    monkeypatch.setattr(module, "_MAX_TOKENS", 16)
    np.testing.assert_array_equal(tokenizer.encode_latents(z.astype(np.float32)), whole)


def _black(tokenizer):
    return np.zeros((1, 4 * tokenizer.stride, 4 * tokenizer.stride, 3), np.uint8)
