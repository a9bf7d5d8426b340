"""What the loop does before the first step, and in which order it dispatches, fetches and saves."""

import itertools
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vpvae_jax.runtime.errors import TrainingDivergedError
from vpvae_jax.training import loop, progress


@pytest.fixture(scope="module")
def program():
    return loop.compile_program(tiny.experiment(""))


def test_memory_and_compile_time_are_printed_before_the_run(tmp_path, data_dir, capsys, monkeypatch, program):
    def run(program, *arguments):
        assert isinstance(program.step, jax.stages.Compiled)  # takes these shapes alone: nothing can compile again
        printed.append(capsys.readouterr().out)

    printed = []
    monkeypatch.setattr(loop, "_run", run)
    monkeypatch.setattr(loop, "compile_program", lambda experiment: program)
    loop.train(tiny.experiment(data_dir), tmp_path)
    assert re.fullmatch(
        r"compiled the step in \d+\.\d s; by XLA's analysis it needs \S+ GiB a device "
        r"\(arguments .*, outputs .*, temporaries .*\)",
        printed[0].splitlines()[-1],
    )


def test_memory_need_is_the_sum_of_its_parts():
    analysis = types.SimpleNamespace(
        argument_size_in_bytes=4 * 2**30,
        output_size_in_bytes=3 * 2**30,
        temp_size_in_bytes=2 * 2**30,
        alias_size_in_bytes=2**30,
    )
    compiled = types.SimpleNamespace(memory_analysis=lambda: analysis)
    assert loop.memory_need(compiled) == (
        "by XLA's analysis it needs 8 GiB a device (arguments 4, outputs 2, temporaries 2)"
    )


def test_a_backend_without_an_analysis_is_named():
    compiled = types.SimpleNamespace(memory_analysis=lambda: None)
    assert loop.memory_need(compiled) == "XLA's cpu backend does not tell how much memory it needs"


def test_the_program_donates_the_state(program):
    run = tiny.experiment("")
    config = run.config
    state = jax.device_put(loop.new_state(run), program.state_sharding)
    images = np.zeros((config.train.batch_size, config.data.crop, config.data.crop, 3), np.uint8)
    new_state, _ = program.step(state, program.frozen, jax.device_put(images, program.batch_sharding))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert int(new_state.step) == 1


def _trace_of_a_run(tmp_path, monkeypatch, losses, **overrides):
    """What `_run` did with a step that gives these losses."""
    did = []

    def step(state, frozen, batch):
        number = state.step + 1
        did.append(f"dispatch {number}")
        return types.SimpleNamespace(step=number), {name: jnp.float32(losses[number - 1]) for name in names}

    def device_get(pending):
        did.append(f"fetch {len(pending)}")
        return real_device_get(pending)

    names, real_device_get = ("loss", "gradient_norm"), jax.device_get
    monkeypatch.setattr(progress.jax, "device_get", device_get)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    checkpoints = types.SimpleNamespace(
        save=lambda state, iterator, loss: did.append(f"save {state.step}"), wait=lambda: None
    )
    run = tiny.experiment("", train__num_steps=len(losses), train__warmup_steps=0, **overrides)
    program = loop.Program(step, step, {}, sharding, sharding, 0.0)
    try:
        state = types.SimpleNamespace(step=0)
        loop._run(program, state, itertools.repeat(np.zeros(1)), checkpoints, run, tmp_path)
    except TrainingDivergedError as error:
        did.append(str(error).split(":")[0])
    return did


def test_metrics_are_fetched_while_the_next_step_runs_and_before_a_save(tmp_path, monkeypatch):
    did = _trace_of_a_run(tmp_path, monkeypatch, losses=range(7), log__every=2, checkpoint__every=5)
    assert did == [
        *("dispatch 1", "dispatch 2", "dispatch 3", "fetch 2"),
        *("dispatch 4", "dispatch 5", "fetch 2", "fetch 1", "save 5"),
        *("dispatch 6", "dispatch 7", "fetch 1", "fetch 1", "save 7"),
    ]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 0.5), (4, 2.5), (5, 4.0), (6, 5.0), (7, 6.0)]
    assert all(0 <= line["input_share"] <= 1 for line in lines)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, ["dispatch 1", "dispatch 2", "dispatch 3", "fetch 2"]),
        (4, ["dispatch 1", "dispatch 2", "dispatch 3", "fetch 2", "dispatch 4", "fetch 2"]),
    ],
)
def test_a_loss_that_is_not_finite_is_never_saved(tmp_path, monkeypatch, number, expected):
    losses = [1.0, 1.0, 1.0, 1.0]
    losses[number - 1] = float("nan")
    did = _trace_of_a_run(tmp_path, monkeypatch, losses, log__every=2, checkpoint__every=4)
    assert did == [*expected, f"loss is nan at step {number}"]
