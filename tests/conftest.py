from pathlib import Path

import numpy as np
import pytest

from tests import tiny


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Reference numbers of the authors' example code, by key."""
    with np.load(Path(__file__).parent / "golden" / "golden.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where `photos` is prepared, once for all tests."""
    return tmp_path_factory.mktemp("tensorflow_datasets")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data_dir):
    """A finished work directory of the tiny run; not to be changed."""
    from vpvae_jax import main

    workdir = tmp_path_factory.mktemp("trained")
    main.run(tiny.config(data_dir), workdir, "train")
    return workdir
