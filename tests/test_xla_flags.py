import importlib.metadata
import subprocess
import sys

import pytest

from tests import tiny
from vpvae_jax import xla_flags

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
    monkeypatch.setattr(xla_flags, "_num_cores", lambda: num_cores)
    xla_flags.set_cpu_flags()
    flags = xla_flags.os.environ["XLA_FLAGS"].split()
    assert flags == ["--xla_force_host_platform_device_count=2", f"{FLAG}={value}"]


def test_the_users_choice_stays(monkeypatch, version):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=LIBRARY_FUSION_TYPE_INVALID")
    xla_flags.set_cpu_flags()
    assert xla_flags.os.environ["XLA_FLAGS"] == f"{FLAG}=LIBRARY_FUSION_TYPE_INVALID"


def test_a_version_that_was_not_tried_gets_no_flag(monkeypatch, version):
    version("0.11.0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    xla_flags.set_cpu_flags()
    assert "XLA_FLAGS" not in xla_flags.os.environ


def test_products_with_broadcast_operands_are_right():
    """With the value that fuses products, jaxlib 0.10.2 gives 1 instead of 8."""
    code = (
        "from vpvae_jax.xla_flags import set_cpu_flags; set_cpu_flags()\n"
        "import jax, jax.numpy as jnp\n"
        "product = jax.jit(lambda x: x @ jnp.ones((8, 16)))(jnp.ones((4096, 8)))\n"
        "assert (product == 8).all(), product\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
