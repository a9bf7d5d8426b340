import gc
import json
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

_CACHE, _MIN_SECONDS = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# Of jaxlib 0.10: kernels that compile in half of the time and run slower.
_XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
_TRAINED = {"trained", "trained_built", "trained_speech"}


def pytest_configure(config):
    """Share compiled programs between the workers of pytest-xdist, and compile without most optimizations.

    Most programs run once here; JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests what XLA compiles for users, as the demos of CI
    do. Commands that tests start use the same cache and settings.
    """
    gc.freeze()  # what is imported stays
    gc.set_threshold(100_000, 20, 20)  # JAX makes many objects and few cycles: a tenth of the time went to looking
    if _CACHE not in os.environ:
        os.environ[_CACHE] = tempfile.mkdtemp(prefix="vpvae_jax_compiled_")
        config.add_cleanup(lambda: shutil.rmtree(os.environ[_CACHE], ignore_errors=True))
    os.environ.setdefault(_MIN_SECONDS, "0.3")
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)
        if jax.lib.__version__.startswith("0.10."):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_FLAGS}".strip()
    jax.config.update("jax_compilation_cache_dir", os.environ[_CACHE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(os.environ[_MIN_SECONDS]))


def pytest_collection_modifyitems(items):
    """Mark the default tests by their cost: integration tests use a trained run, the others are unit tests.

    Files with system tests come first: --dist=loadfile gives a file to one process, and the last one should be short.
    """
    long_files = set()
    for item in items:
        if item.get_closest_marker("system"):
            long_files.add(item.path)
        elif not item.get_closest_marker("reliability"):
            item.add_marker("integration" if _TRAINED & set(item.fixturenames) else "unit")
    items.sort(key=lambda item: item.path not in long_files)


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
    workdir, built = shared / "trained", shared / "trained_built.json"
    with filelock.FileLock(shared / "trained.lock"):
        if not built.exists():
            with tiny.count_builds() as counted:
                tiny.do(tiny.config(data_dir), workdir)
            built.write_text(json.dumps(sorted(counted)))
    return workdir


@pytest.fixture(scope="session")
def trained_built(trained, shared):
    """What was built by the command that made `trained`, a name for each object."""
    return json.loads((shared / "trained_built.json").read_text())


@pytest.fixture(scope="session")
def lpips_file(tmp_path_factory):
    """A file of random weights for LPIPS."""
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    safetensors.numpy.save_file(make_lpips.weights(), path)
    return str(path)
