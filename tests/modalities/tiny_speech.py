"""The speech config, shrunk so that a training takes seconds."""

import importlib.resources

import ml_collections

from tests import tiny
from vpvae_jax.config_arguments import load_config

RECORDINGS = str(importlib.resources.files("vpvae_jax.data") / "speech_flac")

_OVERRIDES = {
    "data.source": "folder",
    "data.name": "",
    "data.path": RECORDINGS,
    "data.crop": 1920,
    "data.cache_mib": 64,
    "model.feature_dim": 16,
    "model.encoder_widths": (4, 4, 8, 8),
    "model.encoder_depths": (0, 0, 1, 1),
    "model.decoder_widths": (8, 8, 4, 4, 4),
    "model.decoder_depths": (1, 1, 0, 0),
    "model.attention_window": 20,
    "model.num_heads": 2,
    "model.window": 1920,
    "model.context": 480,
    "quantizer.codebook_size": 16,
    "quantizer.latent_dim": 3,
    "codebook.crop": 1920,
    "codebook.max_latents": 2048,
    "train.num_steps": 2,
    "train.batch_size": 4,
    "train.warmup_steps": 0,
    "eval.num_pictures": 1,
    "log.every": 1,
}


def config(overrides=None) -> ml_collections.ConfigDict:
    """Keys of the overrides are like `data.crop`."""
    return load_config(tiny.ROOT / "configs" / "speech.py", "", _OVERRIDES | (overrides or {}))
