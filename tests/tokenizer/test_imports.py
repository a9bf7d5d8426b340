"""What a program that only uses a tokenizer has to import."""

import subprocess
import sys

import pytest

from tests import tiny

HEAVY = {"tensorflow_datasets", "tensorflow", "orbax", "grain", "matplotlib", "array_record"}
USE = """
import sys
import numpy as np
from vpvae_jax.tokenizer import Tokenizer
tokenizer = Tokenizer.load(sys.argv[1])
images = np.zeros((1, 32, 32, 3), np.uint8)
assert tokenizer.decode(tokenizer.encode(images)).shape == images.shape
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.system
def test_loading_and_using_a_tokenizer_needs_no_reader_no_checkpoints_and_no_plots(trained):
    words = [sys.executable, "-c", USE, str(trained)]
    done = subprocess.run(words, cwd=tiny.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert {"jax", "flax", "safetensors"} <= imported  # the list is not empty by mistake
    assert not imported & HEAVY
