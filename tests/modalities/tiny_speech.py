"""A speech config so small that a training takes seconds."""

import importlib.resources
import pathlib

import ml_collections

from tests import tiny


def config(overrides=None) -> ml_collections.ConfigDict:
    config = tiny.config("")
    del config.model, config.data, config.loss
    config.data = {
        "source": "folder",
        "name": "",
        "path": str(pathlib.Path(str(importlib.resources.files("vpvae_jax.data"))) / "speech_flac"),
        "data_dir": "",
        "train_split": "train",
        "sample_rate": 16_000,
        "normalize": True,
        "crop": 1920,
        "eval_crop": 0,
        "num_threads": 2,
        "cache_mib": 64,
    }
    config.model = {
        "name": "sqcodec",
        "feature_dim": 16,
        "encoder_widths": (4, 4, 8, 8),
        "encoder_strides": (6, 4, 4),
        "encoder_depths": (0, 0, 1, 1),
        "encoder_attention_depth": 1,
        "decoder_widths": (8, 8, 4, 4, 4),
        "decoder_rates": (4, 4, 3, 2),
        "decoder_depths": (1, 1, 0, 0),
        "decoder_attention_depth": 1,
        "attention_window": 20,
        "num_heads": 2,
        "window": 1920,
        "context": 480,
        "dtype": "float32",
    }
    config.loss = {
        "l1_weight": 100.0,
        "stft_weight": 1.0,
        "stft_floor": 1e-8,
        "whisper_weight": 0.0,
        "whisper_weights": "",
    }
    config.codebook.crop = 1920
    config.codebook.max_latents = 2048
    config.train.num_steps = 2
    config.train.warmup_steps = 0
    config.eval.splits = ("validation", "test")
    config.eval.batch_size = 4
    with config.ignore_type():
        config.update_from_flattened_dict(overrides or {})
    return config
