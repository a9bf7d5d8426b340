"""A run small enough for tests: the photos config with a narrow network and a handful of steps."""

import pathlib
import subprocess
import sys

import ml_collections

from vpvae_jax.config_arguments import load_config

ROOT = pathlib.Path(__file__).parent.parent

OVERRIDES = {
    "model.channels": 8,
    "model.channel_multipliers": (1, 1),
    "model.z_channels": 4,
    "data.crop": 16,
    "data.eval_crop": 64,
    "data.cache_mib": 64,
    "quantizer.codebook_size": 16,
    "quantizer.latent_dim": 3,
    "codebook.crop": 32,
    "codebook.max_latents": 512,
    "train.num_steps": 6,
    "train.batch_size": 4,
    "train.warmup_steps": 2,
    "checkpoint.every": 2,
    "log.every": 1,
    "eval.batch_size": 2,
    "eval.num_pictures": 1,
}


def config(data_dir, argument="", **overrides) -> ml_collections.ConfigDict:
    """The photos config, shrunk; keys of `overrides` have `__` for the dot. An argument sets all of the quantizer."""
    shrunk = settings(data_dir, **overrides)
    if argument:
        shrunk = {key: value for key, value in shrunk.items() if not key.startswith("quantizer.")}
    return load_config(ROOT / "configs" / "photos.py", argument, shrunk)


def settings(data_dir, **overrides) -> dict:
    return OVERRIDES | {"data.data_dir": str(data_dir)} | {k.replace("__", "."): v for k, v in overrides.items()}


def command(workdir, data_dir=None, *, mode="train", **overrides) -> list[str]:
    """The command line of the same run; without a data directory only mode and work directory are given."""
    words = [sys.executable, "-m", "vpvae_jax.main", f"--workdir={workdir}", f"--mode={mode}"]
    if data_dir is not None:
        words.append("--config=configs/photos.py")
        words += [f"--config.{key}={value}" for key, value in settings(data_dir, **overrides).items()]
    return words


def run(words: list[str], **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, **kwargs)
