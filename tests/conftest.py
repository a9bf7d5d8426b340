import os
import shutil
import tempfile
from pathlib import Path

import filelock
import jax
import numpy as np
import pytest
import safetensors.numpy

from tests import tiny
from tests.golden import make_lpips

_MIN_COMPILE_SECONDS = 0.3


def pytest_configure(config):
    """Keep what is compiled: each run builds its functions anew, and loads what an earlier one has compiled.

    For this process alone: tests kill others, which could leave half a file. And compile in haste, for most programs
    here and in processes started here run once: JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests what XLA makes of them for users
    (which the shortened demos of CI run).
    """
    cache = tempfile.mkdtemp(prefix="vpvae_jax_compiled_")
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Reference numbers of the authors' example code, by key."""
    with np.load(Path(__file__).parent / "golden" / "golden.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A directory of all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def data_dir(shared):
    """Where `photos` is prepared, once for all tests."""
    return shared / "tensorflow_datasets"


@pytest.fixture(scope="session")
def trained(shared, data_dir):
    """A finished work directory of the tiny run, made by the first process that asks; not to be changed."""
    from vpvae_jax import main

    workdir, is_done = shared / "trained", shared / "trained.done"
    with filelock.FileLock(shared / "trained.lock"):
        if not is_done.exists():
            main.run(tiny.config(data_dir), workdir, "train")
            is_done.touch()
    return workdir


@pytest.fixture(scope="session")
def lpips_file(tmp_path_factory):
    """A file of random weights for LPIPS."""
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    safetensors.numpy.save_file(make_lpips.weights(), path)
    return str(path)
