"""Damaged checkpoints of a real run: named, passed over, quarantined; and which are kept."""

import contextlib
import json
import logging
import shutil
import types

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vpvae_jax.runtime.errors import CheckpointError
from vpvae_jax.training.checkpoint import Checkpoints
from vpvae_jax.training.fit import fit_codebook
from vpvae_jax.training.loop import train
from vpvae_jax.training.state import TrainState


def _flip_a_bit(step_directory):
    path = max((p for p in step_directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path.relative_to(step_directory).as_posix()


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.system
def test_a_damaged_step_is_named_and_trained_again_from_the_one_before(run, trained, data_dir, caplog):
    name = _flip_a_bit(run / "checkpoints" / "6")
    with caplog.at_level(logging.WARNING):
        train(tiny.experiment(data_dir), run)
    assert f"checkpoints/6 is damaged: {name} has changed" in caplog.text
    assert "resuming from step 4" in caplog.text
    assert (run / "damaged_checkpoints" / "6").is_dir()
    experiment = tiny.experiment(data_dir)
    again, undisturbed = (fit_codebook(experiment, workdir)._weights["network"] for workdir in (run, trained))
    jax.tree.map(np.testing.assert_array_equal, again, undisturbed)
    losses = [(run / "metrics.jsonl").read_text().splitlines(), (trained / "metrics.jsonl").read_text().splitlines()]
    assert [json.loads(line)["loss"] for line in losses[0]] == [json.loads(line)["loss"] for line in losses[1]]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"loss": "x"}', b'{"loss": NaN', b"\xff\x00", None])
def test_unreadable_metrics_make_a_damaged_step(tmp_path, content):
    iterator = iter(grain.MapDataset.range(100).to_iter_dataset())
    with Checkpoints(tmp_path / "checkpoints", keep_best=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(_state(step), iterator, 1.0)
    path = tmp_path / "checkpoints" / "2" / "metrics" / "metrics"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with Checkpoints(tmp_path / "checkpoints", keep_best=1) as checkpoints:
        assert checkpoints.latest_good_step() == 1
        checkpoints.quarantine(after=1, target=tmp_path / "quarantine")
        checkpoints.save(_state(2), iterator, 0.5)
    assert checkpoints.latest_good_step() == 2


@pytest.mark.system
def test_a_fit_takes_the_newest_good_step(run, data_dir):
    _flip_a_bit(run / "checkpoints" / "6")
    assert fit_codebook(tiny.experiment(data_dir), run).step == 4
    with pytest.raises(CheckpointError, match=r"checkpoints/6 is damaged \(state/.* has changed\): restore it"):
        fit_codebook(tiny.experiment(data_dir), run, step=6)


def test_a_run_without_a_good_step_changes_nothing(run, data_dir):
    for step in ("4", "6"):
        _flip_a_bit(run / "checkpoints" / step)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged"):
        tiny.do(tiny.config(data_dir), run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.system
def test_checkpoints_from_before_there_were_manifests_are_used(run, data_dir, caplog):
    for path in run.glob("checkpoints/*/manifest.json"):
        path.unlink()
    with caplog.at_level(logging.WARNING):
        assert fit_codebook(tiny.experiment(data_dir), run).step == 6
    assert "have no manifest.json: they are not verified" in caplog.text


def _state(step):
    numbers = jnp.full((4,), step, jnp.float32)
    return TrainState(jnp.int32(step), {"a": numbers}, None, (), (), jnp.zeros(2, jnp.uint32))


def test_the_latest_and_the_best_are_kept(tmp_path):
    iterator = iter(grain.MapDataset.range(100).to_iter_dataset())
    losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 6.0, 6: 7.0}
    with Checkpoints(tmp_path / "checkpoints", keep=2, keep_best=2) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(_state(step), iterator, loss)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5, 6]
    with Checkpoints(tmp_path / "checkpoints", keep=1, keep_best=2) as checkpoints:  # a run that resumes
        assert checkpoints.latest_good_step() == 6
        checkpoints.quarantine(after=5, target=tmp_path / "quarantine")
        for step, loss in {7: 9.0, 8: 9.0}.items():
            checkpoints.save(_state(step), iterator, loss)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 8]
        restored = checkpoints.restore(_state(0), step=2)
    np.testing.assert_array_equal(restored.params["a"], np.full(4, 2.0))


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_the_run(tmp_path, monkeypatch):
    like = _state(0)._replace(params={"a": jax.ShapeDtypeStruct((2**20,), jnp.float32)})  # 4 MiB, and 1 for the rest
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for free, is_enough in ((15.1, True), (14.9, False)):
            usage = types.SimpleNamespace(free=free * 2**20)
            monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
            with (
                contextlib.nullcontext() if is_enough else pytest.raises(CheckpointError, match="needed for 3 of them")
            ):
                checkpoints.check_room(like)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jnp.zeros((4,), jnp.bfloat16), r"holds float32\(4,\) as params.a, expected bfloat16"),
        (jnp.zeros((5,)), r"holds float32\(4,\) as params.a, expected float32\(5,\)"),
    ],
)
def test_other_types_and_shapes_are_refused(tmp_path, leaf, message):
    iterator = iter(grain.MapDataset.range(100).to_iter_dataset())
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(_state(1), iterator)
        checkpoints.wait()
        with pytest.raises(CheckpointError, match=message):
            checkpoints.restore(_state(0)._replace(params={"a": leaf}))


def test_another_number_of_processes_is_refused(run, data_dir):
    path = run / "data.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 2}))
    with pytest.raises(CheckpointError, match=r"a run of 2 processes, .*, this run has 1"):
        train(tiny.experiment(data_dir), run)
