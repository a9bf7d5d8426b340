"""What devices exchange in a step: gradients and sums, never the memory, the latents or the batch."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from benchmarks.collectives import collectives
from tests import tiny

HLO = """
  %all-reduce.3 = (f32[3,3]{1,0}, bf16[]) all-reduce(%a, %b), channel_id=1, metadata={op_name="jit(f)/sum" id=1}
  %g = u8[8,4]{1,0} all-gather-start(%c), dimensions={0}
  %add = f32[4]{0} add(%g, %g)
  %x = s32[] custom-call(%y), metadata={op_name="all-gather("}
"""

SETTINGS = {"train__batch_size": 16, "data__crop": 32, "model__channels": 64, "quantizer__capacity": 20_000}


def test_collectives_are_read_from_a_program():
    reduce, gather = collectives(HLO)
    assert reduce == ("all-reduce", 9 * 4 + 2, ("f32[3,3]", "bf16[]"), "jit(f)/sum")
    assert gather == ("all-gather", 32, ("u8[8,4]",), "")


def _collectives_of_a_step(search: str, **overrides) -> dict:
    code = textwrap.dedent(f"""
        import contextlib, json, jax
        from benchmarks.collectives import collectives, search_in_xla
        from tests import tiny
        from vpvae_jax.training import loop
        run = tiny.experiment("", **{SETTINGS | overrides!r})
        with {"search_in_xla()" if search == "xla" else "contextlib.nullcontext()"}:
            program = loop.compile_program(run)
        parameters = loop.abstract_state(run).params
        print(json.dumps({{
            "found": collectives(program.step.as_text()),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(parameters)),
        }}))
    """)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, cwd=tiny.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.system
@pytest.mark.parametrize("search", ["host", "xla"])
def test_the_step_sums_gradients_and_little_else(search):
    """The rest are moments of the latents, and those that the memory takes."""
    step = _collectives_of_a_step(search)
    reduced = sum(num_bytes for kind, num_bytes, _, _ in step["found"] if kind == "all-reduce")
    assert 4 * step["parameters"] <= reduced < 1.05 * 4 * step["parameters"] + 4096
    assert {kind for kind, *_ in step["found"]} == {"all-reduce"}


@pytest.mark.system
def test_parameters_that_are_cut_are_gathered():
    """What the test above would see."""
    step = _collectives_of_a_step("xla", train__shard_params=True, model__channels=128)
    assert sum(num_bytes for kind, num_bytes, _, _ in step["found"] if kind == "all-gather") > step["parameters"]
