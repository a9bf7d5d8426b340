import numpy as np
import pytest

from tests.golden import make_lpips


@pytest.fixture(scope="session")
def pairs():
    """Four photographs and distortions of them, `(4, 48, 64, 3)` uint8."""
    return tuple((127.5 * (image + 1)).astype(np.uint8) for image in make_lpips.images())
