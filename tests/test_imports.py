import subprocess
import sys
from pathlib import Path

import vpvae_jax

HEAVY = {"flax", "absl", "ml_collections", "grain", "tensorflow_datasets", "tensorflow", "optax", "orbax", "etils"}

USE = """
import sys
import jax
before = set(sys.modules)
import vpvae_jax
key = jax.random.key(0)
memory = vpvae_jax.memory_init(key, capacity=640, dim=2)
z = jax.random.normal(key, (32, 2))
z_tilde, info = vpvae_jax.perturb(key, memory.samples, z, k_radius=32)
memory = vpvae_jax.memory_push(memory, z[:4])
codebook, _ = vpvae_jax.kmeans(key, memory.samples, 8)
vpvae_jax.assign(codebook, z).block_until_ready()
print(z_tilde.shape, *sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_the_sampler_needs_jax_numpy_and_numba_alone():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(32, 2)")
    imported = set(done.stdout.split())
    assert {"vpvae_jax", "numba"} <= imported  # the list is not empty by mistake
    assert not imported & HEAVY


def test_every_public_name_exists():
    assert len(vpvae_jax.__all__) == len(set(vpvae_jax.__all__))
    missing = [name for name in vpvae_jax.__all__ if not hasattr(vpvae_jax, name)]
    assert not missing
