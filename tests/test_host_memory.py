import platform
import subprocess
import sys

import pytest

# Page faults of the second to fifth of five buffers of 64 MiB, each freed before the next is filled.
_PROGRAM = """
import resource, sys
import numpy as np
from vpvae_jax.host_memory import keep_freed_memory
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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_buffer_that_is_freed_is_used_again():
    assert _faults("keep") * 10 < _faults("leave")
