"""What was stored before a key was added goes on as if it had been there."""

import json
import shutil

import numpy as np
import pytest

from tests import tiny
from vpvae_jax import build, main
from vpvae_jax import workdir as layout
from vpvae_jax.added_keys import ADDED
from vpvae_jax.tokenizer import Tokenizer


def strip(path):
    """Takes the added keys out of a stored config."""
    content = json.loads(path.read_text())
    config = content.get("config", content)
    for key in ADDED:
        section, name = key.split(".")
        del config[section][name]
    del config["debug"]
    path.write_text(json.dumps(content))


@pytest.fixture
def old(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    strip(tmp_path / "run" / "config.json")
    strip(tmp_path / "run" / "tokenizer" / "tokenizer.json")
    return tmp_path / "run"


def test_tokenizer_is_the_same(trained, old):
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    indices = [Tokenizer.load(workdir / "tokenizer").encode(images) for workdir in (trained, old)]
    np.testing.assert_array_equal(*indices)


@pytest.mark.parametrize("mode", ["evaluate", "report"])
def test_later_modes_go_on_without_a_config(old, mode):
    main.run(None, old, mode)


def test_a_training_goes_on_with_todays_config(old, data_dir):
    """As is; with other weights, as files move; and with less memory: none of it is another training."""
    for values in ({}, {"model__remat": True}, {"loss__lpips_weights": "elsewhere.safetensors"}):
        config = tiny.config(data_dir, **values)
        layout.check_same_config(config, old, same_data=True)
        layout.check_same_config(config, old, same_data=False)


def test_today_lacks_none(data_dir):
    config = tiny.config(data_dir)
    flat = build.flatten(config)
    assert all(flat[key] == value for key, value in ADDED.items())
