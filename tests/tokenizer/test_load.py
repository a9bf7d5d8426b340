"""Loading a tokenizer where its training was not."""

import jax

from vpvae_jax.tokenizer import Tokenizer


def test_a_tokenizer_does_not_care_how_many_devices_there_are(trained, monkeypatch):
    """Its training's batch of 4 does not divide over 3."""
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    assert Tokenizer.load(trained).codebook_size == 16
