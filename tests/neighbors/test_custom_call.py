"""Numpy functions in compiled programs, by XLA's C interface."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.neighbors.cpu.custom_call import register

PROGRAM = """
import jax, jax.numpy as jnp
from vpvae_jax import neighbors
stored = []
jax.monitoring.register_event_listener(lambda event, **_: stored.append(event.rpartition("/")[2]))
samples, queries = jnp.arange(800.0).reshape(200, 4), jnp.ones((10, 4))
search = jax.jit(lambda samples, queries: neighbors.neighbor_distances(samples, queries, (1, 5)))
compiled = search.lower(samples, queries).compile()
print(stored.count("cache_hits"), compiled(samples, queries).sum())
"""


def _affine(scale, x):
    return scale * x + 1, 7


def _raising(x):
    raise ValueError(f"no such thing as {x[0]}")


def _writing(x):
    x[0] = 1.0
    return (x,)


register("test_affine", _affine)
register("test_raising", _raising)
register("test_writing", _writing)
register("test_same", lambda x: (x,))
FLOATS = jax.ShapeDtypeStruct((3,), jnp.float32)


def test_arguments_and_results():
    results = FLOATS, jax.ShapeDtypeStruct((2, 2), jnp.int32)
    call = jax.ffi.ffi_call("test_affine", results)
    y, sevens = jax.jit(lambda x: call(jnp.float32(2.0), x))(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(y, [3.0, 5.0, 7.0])
    np.testing.assert_array_equal(sevens, np.full((2, 2), 7))


def test_empty_arrays():
    (y,) = jax.ffi.ffi_call("test_same", (jax.ShapeDtypeStruct((0, 3), jnp.float32),))(jnp.ones((0, 3)))
    assert y.shape == (0, 3)


def test_an_exception_is_an_error_of_the_program():
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"test_raising: ValueError: no such thing as 4\.0"):
        jax.block_until_ready(jax.ffi.ffi_call("test_raising", FLOATS)(jnp.full(3, 4.0)))


def test_arguments_cannot_be_written():
    with pytest.raises(jax.errors.JaxRuntimeError, match="read-only"):
        jax.block_until_ready(jax.ffi.ffi_call("test_writing", (FLOATS,))(jnp.zeros(3)))


def test_another_type_is_refused():
    with pytest.raises(jax.errors.JaxRuntimeError, match="test_affine: TypeError: arrays of XLA's type 1"):
        jax.block_until_ready(jax.ffi.ffi_call("test_affine", (FLOATS, FLOATS))(jnp.ones(3), jnp.array([True])))


@pytest.mark.system
def test_a_search_is_loaded_by_another_process_not_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    first, second = (
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    )
    assert int(first[0]) == 0
    assert int(second[0]) >= 1
    assert first[1] == second[1]
