"""Loading a tokenizer where its training was not."""

import json
import shutil

import jax
import pytest

from vpvae_jax.runtime.errors import CheckpointError
from vpvae_jax.tokenizer import Tokenizer


def test_a_tokenizer_does_not_care_how_many_devices_there_are(trained, monkeypatch):
    """Its training's batch of 4 does not divide over 3."""
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    assert Tokenizer.load(trained / "tokenizer").codebook_size == 16


@pytest.mark.parametrize("version", [None, 1, 99])
def test_one_of_another_version_is_not_called_damaged(trained, tmp_path, version):
    shutil.copytree(trained / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    del content["config"]["version"]
    if version:
        content["config"]["version"] = version
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="stored by another version of vpvae_jax") as caught:
        Tokenizer.load(tmp_path / "tokenizer")
    assert "damaged" not in str(caught.value)
    assert "fit it again" not in str(caught.value)
