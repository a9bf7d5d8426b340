"""The speech config, shrunk so that a training takes seconds."""

import importlib.resources

from tests import tiny
from vpvae_jax.config.files import load_config
from vpvae_jax.config.schema import Config
from vpvae_jax.speech.speech import Speech

RECORDINGS = str(importlib.resources.files("vpvae_jax.speech") / "speech_flac")
CROP = 1920

_OVERRIDES = {
    "data.source": "folder",
    "data.name": "",
    "data.path": RECORDINGS,
    "data.crop": CROP,
    "data.cache_mib": 64,
    "model.feature_dim": 16,
    "model.encoder_widths": (4, 4, 8, 8),
    "model.encoder_depths": (0, 0, 1, 1),
    "model.decoder_widths": (8, 8, 4, 4, 4),
    "model.decoder_depths": (1, 1, 0, 0),
    "model.attention_window": 20,
    "model.num_heads": 2,
    "model.window": CROP,
    "model.context": 480,
    "eval.num_pictures": 1,
    "quantizer.codebook_size": 16,
    "quantizer.latent_dim": 3,
    "codebook.crop": CROP,
    "codebook.max_latents": 2048,
    "train.num_steps": 2,
    "train.batch_size": 4,
    "train.warmup_steps": 0,
    "log.every": 1,
}


def config(overrides=None) -> Config:
    """The config of a run; keys of the overrides are like `data.crop`."""
    return load_config(tiny.ROOT / "configs" / "speech.py", "", _OVERRIDES | (overrides or {}))


def speech(overrides=None) -> Speech:
    """The modality of that config."""
    settings = config(overrides)
    return Speech(settings.data, settings.model, settings.loss, settings.eval)
