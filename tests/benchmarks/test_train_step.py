"""How the benchmark reads a trace."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import train_step


def test_intervals_that_overlap_or_nest_count_once():
    assert train_step.covered([(5, 6), (0, 3), (1, 2), (2, 4)]) == 5
    assert train_step.covered([]) == 0


@pytest.mark.parametrize(("scope", "operation"), [("perturbation", "sine"), ("memory_push", "cosine")])
def test_instructions_of_a_scope(scope, operation):
    @jax.jit
    def function(x):
        with jax.named_scope("perturbation"):
            y = jnp.sin(x)
        y = jax.lax.optimization_barrier(y @ y)
        with jax.named_scope("memory_push"):
            return jnp.cos(y)

    text = function.lower(jnp.ones((8, 8))).compile().as_text()
    names = train_step.instructions_in_scope(text, scope)
    lines = [line for line in text.splitlines() if any(f"%{name} =" in line or f" {name} =" in line for name in names)]
    assert any(operation in line for line in lines)
    assert not any("dot(" in line for line in lines)
