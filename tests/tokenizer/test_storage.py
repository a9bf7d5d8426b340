"""Saving loses nothing, loading believes nothing."""

import functools
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import safetensors.numpy

from tests import tiny
from vpvae_jax.runtime.errors import CheckpointError
from vpvae_jax.tokenizer import Tokenizer, storage


@pytest.fixture(scope="module")
def tokenizer(trained):
    return Tokenizer.load(trained)


@pytest.fixture(scope="module")
def stored(trained):
    """Arrays and description of the tokenizer."""
    return storage.read(tiny.tokenizer(trained))


def _same(directory, arrays):
    found, _ = storage.read(directory)
    return found.keys() == arrays.keys() and all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_a_missing_directory_is_called_missing(tmp_path):
    with pytest.raises(CheckpointError, match="new does not exist: expected a tokenizer"):
        Tokenizer.load(tmp_path / "new")
    with pytest.raises(CheckpointError, match="holds no tokenizer: expected a tokenizer"):
        Tokenizer.load(tmp_path)


class TestSave:
    def test_comes_back(self, tokenizer, tmp_path, stored):
        tokenizer.save(tmp_path / "new")
        assert sorted(os.listdir(tmp_path / "new")) == ["tokenizer.json", "weights.safetensors"]
        assert _same(tmp_path / "new", stored[0])
        again = Tokenizer.load(str(tmp_path / "new"))
        again.save(tmp_path / "new")  # over itself
        assert _same(tmp_path / "new", stored[0])

    @pytest.mark.parametrize("name", ["checkpoints/5/x", ".git/HEAD", "notes.txt", "tokenizer/x"])
    def test_anything_else_in_the_directory_is_kept(self, tokenizer, tmp_path, name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
        with pytest.raises(CheckpointError, match=rf"holds {name.split('/')[0]}: expected a directory that is missing"):
            tokenizer.save(tmp_path)
        assert (tmp_path / name).read_text() == "mine"
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_file_of_that_name_is_kept(self, tokenizer, tmp_path):
        (tmp_path / "a").write_text("mine")
        with pytest.raises(CheckpointError, match="a is a file"):
            tokenizer.save(tmp_path / "a")
        assert (tmp_path / "a").read_text() == "mine"

    def test_weights_of_another_program_are_kept(self, tokenizer, tmp_path):
        safetensors.numpy.save_file({"w": np.ones(3)}, tmp_path / "weights.safetensors")
        with pytest.raises(CheckpointError, match="was not stored by this version of vpvae_jax"):
            tokenizer.save(tmp_path)
        assert safetensors.numpy.load_file(tmp_path / "weights.safetensors").keys() == {"w"}

    def test_here_and_at_home(self, tokenizer, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        tokenizer.save(".")
        tokenizer.save("~/mine")
        assert (tmp_path / "weights.safetensors").exists()
        assert Tokenizer.load("~/mine").step == tokenizer.step
        assert (tmp_path / "home" / "mine" / "weights.safetensors").exists()

    def test_others_may_read_it(self, tokenizer, tmp_path):
        old = os.umask(0o022)
        try:
            tokenizer.save(tmp_path / "new")
        finally:
            os.umask(old)
        for name in ("weights.safetensors", "tokenizer.json"):
            assert stat.S_IMODE((tmp_path / "new" / name).stat().st_mode) == 0o644

    def test_two_writers(self, stored, tmp_path):
        arrays, about = stored
        versions = [{name: array + number for name, array in arrays.items()} for number in range(2)]
        errors = []

        def write(version):
            try:
                for _ in range(20):
                    storage.write(tmp_path / "new", version, about)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(version,)) for version in versions]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if (tmp_path / "new" / "weights.safetensors").exists():
                found, _ = storage.read(tmp_path / "new")
                assert any(all(np.array_equal(found[name], version[name]) for name in found) for version in versions)
        for thread in threads:
            thread.join()
        assert errors == []
        assert sorted(os.listdir(tmp_path / "new")) == ["tokenizer.json", "weights.safetensors"]


WRITER = """
import pathlib, sys
import numpy as np
from vpvae_jax.tokenizer import storage
for number in range(10**6):
    arrays = {name: np.full(50_000, number, np.float32) for name in "abc"}
    storage.write(pathlib.Path(sys.argv[1]), arrays, {"number": number})
    print(number, flush=True)
"""


@pytest.mark.parametrize(
    "num_kills", [pytest.param(3, marks=pytest.mark.system), pytest.param(200, marks=pytest.mark.reliability)]
)
def test_a_writer_that_is_killed_leaves_the_old_or_the_new(tmp_path, num_kills):
    rng, directory = random.Random(0), tmp_path / "new"
    for _ in range(num_kills):
        words = [sys.executable, "-c", WRITER, str(directory)]
        with subprocess.Popen(words, cwd=tiny.ROOT, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(rng.randint(1, 5)):
                last = int(process.stdout.readline())
            time.sleep(rng.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            last = int((process.stdout.read().split() or [last])[-1])
        arrays, about = storage.read(directory)
        assert about["number"] in (last, last + 1)
        assert all((array == about["number"]).all() for array in arrays.values())
    storage.write(directory, {"a": np.ones(3, np.float32)}, {})
    assert sorted(os.listdir(directory)) == ["tokenizer.json", "weights.safetensors"]


def _crafted(directory, arrays, about):
    """A file with a digest that is right, whatever it holds."""
    directory.mkdir()
    text = json.dumps(about)
    metadata = {"vpvae_jax": text, "sha256": storage._digest(text, arrays)}
    (directory / "weights.safetensors").write_bytes(safetensors.numpy.save(arrays, metadata))
    return directory


KERNEL = "network/down/kernel"
SETTINGS, ARRAYS = "settings", "arrays"
CRAFTED = {
    "a codebook of one row": (ARRAYS, "codebook", lambda a: a[:1], r"float32\(1, 3\): expected float32\(16, 3\)"),
    "more rows than codes": (ARRAYS, "codebook", lambda a: np.tile(a, (16, 1)), r"codebook is float32\(256, 3\)"),
    "integers": (ARRAYS, KERNEL, lambda a: a.astype(np.int8), r"kernel is int8\(4, 3\): expected float32\(4, 3\)"),
    "half precision": (ARRAYS, KERNEL, lambda a: a.astype(np.float16), "kernel is float16"),
    "another shape": (ARRAYS, KERNEL, lambda a: a.T.copy(), r"kernel is float32\(3, 4\)"),
    "a key that is lacking": (ARRAYS, KERNEL, None, f"{KERNEL} is nothing: expected float32"),
    "no codebook": (ARRAYS, "codebook", None, "codebook is nothing"),
    "a key too many": (ARRAYS, "more", lambda a: np.zeros(1, np.float32), "more is no part of it"),
    "NaN": (ARRAYS, KERNEL, lambda a: np.where(a == a[0, 0], np.nan, a), "kernel has 1 values that are not finite"),
    "an infinite code": (ARRAYS, "codebook", lambda a: a * np.float32("inf"), "has 48 values that are not finite"),
    "a huge size": (SETTINGS, "quantizer.codebook_size", 10**9, "cannot be used"),
    "another network": (SETTINGS, "model.channels", 16, "expected float32"),
    "an unknown network": (SETTINGS, "model.name", "what", "model.name='what'"),
    "an unknown key": (SETTINGS, "model.what", 1, r"model\.what is not a key"),
    "another version": (SETTINGS, "version", 1, "stored by another version of vpvae_jax"),
}  # fmt: skip
DESCRIPTIONS = {
    "a negative step": ({"step": -1}, "step=-1: expected a number of updates"),
    "a step that is none": ({"step": "many"}, "step='many'"),
    "no step": ({"step": None}, "step=None: expected a number"),
    "no config": ({"config": None}, "stored by another version"),
}


class TestLoad:
    @pytest.mark.parametrize("what", CRAFTED)
    def test_parts_that_do_not_fit_together_are_named(self, stored, tmp_path, what):
        arrays, about = dict(stored[0]), json.loads(json.dumps(stored[1]))
        kind, name, change, message = CRAFTED[what]
        if kind == SETTINGS:
            *sections, key = name.split(".")
            functools.reduce(dict.__getitem__, sections, about["config"])[key] = change
        elif change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays.get(name))
        self._assert_refused(_crafted(tmp_path / "crafted", arrays, about), message)

    @pytest.mark.parametrize("what", DESCRIPTIONS)
    def test_descriptions(self, stored, tmp_path, what):
        change, message = DESCRIPTIONS[what]
        self._assert_refused(_crafted(tmp_path / "crafted", stored[0], stored[1] | change), message)

    @pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", "[" * 10**5])
    def test_a_description_that_is_no_object(self, stored, tmp_path, text):
        metadata = {"vpvae_jax": text, "sha256": storage._digest(text, stored[0])}
        (tmp_path / "weights.safetensors").write_bytes(safetensors.numpy.save(stored[0], metadata))
        self._assert_refused(tmp_path, "is damaged .its description is no JSON object")

    def _assert_refused(self, directory, message):
        with pytest.raises(CheckpointError, match=message) as caught:
            Tokenizer.load(directory)
        assert "\n" not in str(caught.value)

    def test_what_is_not_changed_loads(self, stored, tmp_path):
        assert Tokenizer.load(_crafted(tmp_path / "crafted", *stored)).codebook_size == 16

    @pytest.mark.parametrize("where", ["arrays", "description"])
    def test_a_flipped_bit_is_damage(self, trained, tmp_path, where):
        content = bytearray((tiny.tokenizer(trained) / "weights.safetensors").read_bytes())
        content[-5 if where == "arrays" else content.index(b"num_steps") + 1] ^= 1
        (tmp_path / "weights.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"is damaged .*restore it from a copy, or fit another one"):
            Tokenizer.load(tmp_path)

    def test_a_permission_is_not_called_damage(self, trained, tmp_path, monkeypatch):
        (tmp_path / "weights.safetensors").write_bytes((tiny.tokenizer(trained) / "weights.safetensors").read_bytes())

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(storage.safetensors, "safe_open", refuse)
        with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\)") as caught:
            Tokenizer.load(tmp_path)
        assert "damaged" not in str(caught.value)

    def test_no_memory_is_not_called_damage(self, trained, monkeypatch):
        def fail(*_):
            raise MemoryError

        monkeypatch.setattr(storage, "_digest", fail)
        with pytest.raises(MemoryError):
            Tokenizer.load(trained)
