"""A run small enough for tests: the photos config with a narrow network and a handful of steps."""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vpvae_jax.config import workdir as layout
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.config.schema import Config

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


def config(data_dir, argument="", **overrides) -> Config:
    """The photos config, shrunk; keys of `overrides` have `__` for the dot. An argument sets all of the quantizer."""
    shrunk = settings(data_dir, **overrides)
    if argument:
        shrunk = {key: value for key, value in shrunk.items() if not key.startswith("quantizer.")}
    return load_config(ROOT / "configs" / "photos.py", argument, shrunk)


def experiment(data_dir, argument="", **overrides) -> Experiment:
    """The same, assembled."""
    return Experiment(config(data_dir, argument, **overrides))


def do(config: Config | None, workdir, mode="train", *, options=None, **overrides):
    """What the command line does with a config: None for that of the work directory, with `overrides`."""
    from vpvae_jax import runs

    changed = {key.replace("__", "."): value for key, value in overrides.items()}
    return runs.run(runs.assemble(config, workdir, mode, changed), workdir, mode, options or runs.Options())


@contextlib.contextmanager
def count_builds() -> Iterator[list[str]]:
    """Names of the objects of a run, one for each time that one is built."""
    from vpvae_jax.config import experiment, files, quantizer_section
    from vpvae_jax.images.images import Images

    built: list[str] = []
    with pytest.MonkeyPatch.context() as patch:

        def count(holder, name, label):
            original = getattr(holder, name)

            def counted(*arguments, **more):
                built.append(label(*arguments))
                return original(*arguments, **more)

            patch.setattr(holder, name, counted)

        count(files, "new_config", lambda *_: "config")
        count(quantizer_section, "build", lambda *_: "quantizer")
        count(Images, "network", lambda *_: "network")
        count(Images, "loss", lambda *_: "loss")
        count(Images, "source", lambda self, split: f"source {split}")
        count(experiment.optax, "adam", lambda *_: "optimizer")
        count(experiment.optax, "warmup_cosine_decay_schedule", lambda *_: "schedule")
        yield built


def tokenizer(workdir) -> pathlib.Path:
    """The directory of the current tokenizer of a run."""
    return layout.tokenizer_of(workdir)


def evaluation(workdir, data, tokenizer="*") -> pathlib.Path:
    """The file of the only evaluation on some data, such as `photos-test`."""
    (path,) = (workdir / "eval").glob(f"{data}.{tokenizer}.*.json")
    return path


def settings(data_dir, **overrides) -> dict:
    return OVERRIDES | {"data.data_dir": str(data_dir)} | {k.replace("__", "."): v for k, v in overrides.items()}


def command(workdir, data_dir=None, *, mode="train", **overrides) -> list[str]:
    """The command line of the same run; without a data directory only mode and work directory are given."""
    words = [sys.executable, "-m", "vpvae_jax.main", f"--workdir={workdir}", f"--mode={mode}"]
    if data_dir is not None:
        words.append("--config=photos")
        words += [f"--config.{key}={value}" for key, value in settings(data_dir, **overrides).items()]
    return words


def run(words: list[str], **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, **kwargs)
