"""One update, and the same updates on eight devices."""

import json
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.training.loop import new_state
from vpvae_jax.training.step import make_train_step


def _parts(argument="", **overrides):
    run = tiny.experiment("", argument, **overrides)
    step = make_train_step(
        network=run.network,
        quantizer=run.quantizer,
        optimizer=run.optimizer,
        to_signal=run.modality.to_signal,
        reconstruction_loss=run.loss.function,
        ema_decay=run.config.train.ema_decay,
        accumulation_steps=run.config.train.accumulation_steps,
    )
    return run, lambda state, images: step(state, run.loss.params, images)


def _images(num=4, size=16):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (num, size, size, 3), np.uint8))


@pytest.fixture(scope="module")
def with_mean():
    """A jitted step that keeps a running mean of the parameters, traced once, and the state before the first."""
    run, step = _parts(
        train__ema_decay=0.999, train__learning_rate=1e-2, train__num_steps=40, quantizer__push_fraction=0.01
    )
    return jax.jit(chex.assert_max_traces(step, 1)), new_state(run)


def test_steps_lower_the_loss_with_one_trace_and_move_every_part_of_the_state(with_mean):
    jitted, start = with_mean
    state = start
    losses = []
    for _ in range(30):
        state, metrics = jitted(state, _images())
        losses.append(float(metrics["l1"]))
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3])  # noise has no structure to learn but its mean
    assert int(state.step) == 30
    for before, after in zip(jax.tree.leaves(start.params), jax.tree.leaves(state.params), strict=True):
        assert not np.array_equal(before, after)
    assert not np.array_equal(start.quantizer_state.memory.samples, state.quantizer_state.memory.samples)
    assert int(state.quantizer_state.memory.cursor) == 30 * round(0.01 * 4 * 8 * 8)
    np.testing.assert_array_equal(start.key_data, state.key_data)
    # The running mean lags behind: between where the parameters were and where they are.
    lag = [
        np.abs(ema - new).sum()
        for ema, new in zip(*map(jax.tree.leaves, (state.ema_params, state.params)), strict=True)
    ]
    assert min(lag) > 0


def test_the_running_mean_forgets_the_random_start(with_mean):
    """With a decay of 0.999 alone, four fifths of it would still be the start after 250 steps."""
    jitted, state = with_mean
    start, share = 5.0, 1.0
    state = state._replace(ema_params=jax.tree.map(lambda leaf: leaf + start, state.ema_params))
    for number in range(12):
        state, _ = jitted(state, _images())
        share *= (1 + number) / (10 + number)
    lag = [
        np.abs(np.asarray(ema) - np.asarray(new)).max()
        for ema, new in zip(*map(jax.tree.leaves, (state.ema_params, state.params)), strict=True)
    ]
    assert max(lag) < 0.5 + start * share
    assert start * share < 0.01 < start * 0.999**12


@pytest.fixture(scope="module")
def clipped():
    """A jitted step whose gradients are clipped to 1e-3, and the state before the first."""
    run, step = _parts(train__clip_norm=1e-3)
    return jax.jit(step), new_state(run)


def test_the_draws_of_a_step_depend_on_the_step_alone(with_mean):
    jitted, state = with_mean
    _, first = jitted(state, _images())
    _, again = jitted(state, _images())
    _, later = jitted(state._replace(step=state.step + 1), _images())
    assert first["move_length"] == again["move_length"]
    assert first["move_length"] != later["move_length"]


@pytest.mark.system
def test_bfloat16_network_keeps_quantizer_and_parameters_in_float32():
    run, step = _parts(model__dtype="bfloat16")
    state, metrics = jax.jit(step)(new_state(run), _images())
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert state.quantizer_state.memory.samples.dtype == jnp.float32
    assert np.isfinite(float(metrics["loss"]))
    # The last memory entries are the latents of this step: more bits than bfloat16 has.
    pushed = state.quantizer_state.memory.samples[: int(state.quantizer_state.memory.cursor)]
    assert not np.array_equal(pushed, pushed.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.system
def test_clipping_bounds_the_gradient_that_adam_sees(clipped):
    jitted, start = clipped
    state, metrics = jitted(start, _images())
    adam = next(s for s in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu"))
    mean = float(jnp.sqrt(sum(jnp.sum(m**2) for m in jax.tree.leaves(adam.mu))))
    assert float(metrics["gradient_norm"]) > 1e-2  # logged before clipping
    assert mean == pytest.approx(0.1 * 1e-3, rel=1e-3)  # (1 - b1) * norm


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.0, 0.1 * 5.0), (1.0, 0.1 * 1.0), (9.0, 0.1 * 5.0)])
def test_a_gradient_is_clipped_by_its_norm_and_0_clips_nothing(clip_norm, expected):
    optimizer = tiny.experiment("", train__clip_norm=clip_norm).optimizer
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    _, state = optimizer.update(gradient, optimizer.init(gradient))
    mu = state[1][0].mu
    assert float(jnp.hypot(mu["a"], mu["b"])[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.system
def test_accumulated_gradients_are_those_of_the_batch():
    """Without a quantizer nothing depends on how the batch is cut."""
    results = []
    for parts in (1, 2):
        run, step = _parts(argument="quantizer=none", train__accumulation_steps=parts)
        state, metrics = jax.jit(step)(new_state(run), _images())
        results.append((state, metrics))
    (whole, expected), (state, metrics) = results
    assert metrics.keys() == expected.keys()
    for name in ("loss", "l1", "gradient_norm"):
        assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=1e-5), name
    mu, expected_mu = (tree.opt_state[1][0].mu for tree in (state, whole))
    for leaf, expected_leaf in zip(*map(jax.tree.leaves, (mu, expected_mu)), strict=True):
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-4, atol=1e-7)
    assert int(state.step) == 1


@pytest.mark.system
def test_accumulating_all_parts_are_perturbed_and_remembered():
    run, step = _parts(train__accumulation_steps=2, quantizer__push_fraction=1.0)
    start = new_state(run)
    state, metrics = jax.jit(step)(start, _images())
    assert int(state.quantizer_state.memory.cursor) == 4 * 8 * 8
    assert 0 < float(metrics["acceptance_rate"]) < 1


def test_batch_that_cannot_be_cut():
    with pytest.raises(
        ConfigError, match=r"does not divide over 1 devices and train.accumulation_steps=3: choose a multi"
    ):
        tiny.experiment("", train__accumulation_steps=3)


@pytest.mark.reliability
def test_eight_devices_accumulate_as_one_does(tmp_path, data_dir):
    """Without accumulation: tests/test_distributed.py."""
    sizes = {"train__batch_size": 16, "train__accumulation_steps": 2}
    runs = {}
    for num_devices in (1, 8):
        workdir = tmp_path / str(num_devices)
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
        done = tiny.run(
            tiny.command(workdir, data_dir, **sizes, train__num_steps=4, eval__splits="('test',)"),
            env=os.environ | {"XLA_FLAGS": flags.strip()},
        )
        assert done.returncode == 0, done.stderr
        runs[num_devices] = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for one, eight in zip(runs[1], runs[8], strict=True):
        for name in ("loss", "l1", "quantizer_loss", "acceptance_rate", "move_length", "radius", "gradient_norm"):
            assert eight[name] == pytest.approx(one[name], rel=2e-3), (one["step"], name)
