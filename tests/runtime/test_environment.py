import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

import jax
import pytest

from tests import tiny
from vpvae_jax.runtime import environment

FLAG = "--xla_cpu_experimental_ynn_fusion_type"


@pytest.fixture
def version(monkeypatch):
    def set_version(value):
        monkeypatch.setattr(importlib.metadata, "version", lambda name: value)

    set_version("0.10.2")
    return set_version


@pytest.mark.parametrize(("num_cores", "value"), [(1, "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"), (2, "")])
def test_the_flag_is_added_to_what_is_set(monkeypatch, version, num_cores, value):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    monkeypatch.setattr(environment, "num_cores", lambda: num_cores)
    environment.set_cpu_flags()
    flags = os.environ["XLA_FLAGS"].split()
    assert flags == ["--xla_force_host_platform_device_count=2", f"{FLAG}={value}"]


def test_the_users_choice_stays(monkeypatch, version):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=LIBRARY_FUSION_TYPE_INVALID")
    environment.set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == f"{FLAG}=LIBRARY_FUSION_TYPE_INVALID"


def test_a_version_that_was_not_tried_gets_no_flag(monkeypatch, version):
    version("0.11.0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    environment.set_cpu_flags()
    assert "XLA_FLAGS" not in os.environ


def test_products_with_broadcast_operands_are_right():
    """With the value that fuses products, jaxlib 0.10.2 gives 1 instead of 8."""
    code = (
        "from vpvae_jax.runtime.environment import set_cpu_flags; set_cpu_flags()\n"
        "import jax, jax.numpy as jnp\n"
        "product = jax.jit(lambda x: x @ jnp.ones((8, 16)))(jnp.ones((4096, 8)))\n"
        "assert (product == 8).all(), product\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Page faults of the second to fifth of five buffers of 64 MiB, each freed before the next is filled.
_PROGRAM = """
import resource, sys
import numpy as np
from vpvae_jax.runtime.environment import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for number in range(5):
    if number == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(2**23, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(argument):
    words = [sys.executable, "-c", _PROGRAM, argument]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@pytest.mark.system
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_buffer_that_is_freed_is_used_again():
    assert _faults("keep") * 10 < _faults("leave")


class TestStorePrograms:
    @pytest.fixture
    def stored_in(self, monkeypatch):
        """Where programs go with these variables, as a function of them."""

        names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
        before = {name: jax.config.values[name] for name in names}

        def store(**variables):
            jax.config.update(names[0], variables.pop("chosen", None))
            for name in ("XDG_CACHE_HOME", "HOME"):
                monkeypatch.delenv(name, raising=False)
            for name, value in variables.items():
                monkeypatch.setenv(name, str(value))
            environment.store_programs()
            return jax.config.values[names[0]]

        yield store
        for name, value in before.items():
            jax.config.update(name, value)

    def test_below_the_home_directory(self, stored_in, tmp_path):
        cores = environment.num_cores()
        for variables in ({"HOME": tmp_path}, {"HOME": tmp_path, "XDG_CACHE_HOME": "relative"}):
            folder = stored_in(**variables)
            assert folder.startswith(str(tmp_path / ".cache" / "vpvae_jax" / "compiled"))
            assert folder.endswith(f"-{cores}")
        assert stored_in(HOME="/", XDG_CACHE_HOME=tmp_path).startswith(str(tmp_path / "vpvae_jax"))

    def test_the_users_choice_stays(self, stored_in, tmp_path):
        assert stored_in(HOME=tmp_path, chosen="elsewhere") == "elsewhere"

    def test_nowhere_without_a_place(self, stored_in, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        assert stored_in(HOME=tmp_path / "file") is None

        def no_home(path):
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(environment.pathlib.Path, "expanduser", no_home)
        assert stored_in() is None

    def test_the_oldest_are_deleted(self, stored_in, tmp_path, monkeypatch):
        folder = pathlib.Path(stored_in(HOME=tmp_path))
        for age, name in enumerate(("new", "middle", "old")):
            (folder / name).write_bytes(bytes(100))
            os.utime(folder / name, (1e9 - age, 1e9 - age))
        monkeypatch.setattr(environment, "_MAX_CACHE_BYTES", 250)
        stored_in(HOME=tmp_path)
        assert {path.name for path in folder.iterdir()} == {"new", "middle"}
