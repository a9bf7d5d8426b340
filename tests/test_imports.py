import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

import vpvae_jax

HEAVY = {"flax", "absl", "ml_collections", "grain", "tensorflow_datasets", "tensorflow", "optax", "orbax", "etils"}

USE = """
import sys
import vpvae_jax
assert not {"jax", "numpy", "numba"} & set(sys.modules), "importing the package alone imports more"
assert "vp" in dir(vpvae_jax)
import jax
before = set(sys.modules)
key = jax.random.key(0)
vp = vpvae_jax.vp(8, 2)
params, state = vp.init(key)
z = jax.random.normal(key, (32, 2))
z_tilde, state, loss, info = vp.train(params, state, z, key)
codebook = vp.fit(params, state, z, key)
for name in vpvae_jax.__all__:
    getattr(vpvae_jax, name)
print(z_tilde.shape, *sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


@pytest.mark.system
def test_the_sampler_needs_jax_numpy_and_numba_only():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(32, 2)")
    imported = set(done.stdout.split())
    assert "numba" in imported  # the list is not empty by mistake
    assert not imported & HEAVY


def test_every_public_name_exists_and_is_listed():
    assert len(vpvae_jax.__all__) == len(set(vpvae_jax.__all__))
    assert set(vpvae_jax.__all__) <= set(dir(vpvae_jax))
    assert not [name for name in vpvae_jax.__all__ if isinstance(getattr(vpvae_jax, name), types.ModuleType)]
    assert set(vpvae_jax.QUANTIZERS) <= set(vpvae_jax.__all__)


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'vq_vae'"):
        vpvae_jax.vq_vae  # noqa: B018


def test_the_four_lines():
    key = jax.random.key(0)
    z = latents = jax.random.normal(key, (1100, 4))
    vp = vpvae_jax.vp(1024, 4)
    params, state = vp.init(key)
    z_tilde, state, loss, info = vp.train(params, state, z, key)
    codebook = vp.fit(params, state, latents, key)
    assert z_tilde.shape == z.shape
    assert loss.shape == ()
    assert 0.5 < info["acceptance_rate"] < 0.75
    assert codebook.shape == (1024, 4)
