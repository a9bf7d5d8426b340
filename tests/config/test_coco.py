"""configs/coco.py: what the paper says, and the step at its full size on photographs that are at hand."""

import jax
import numpy as np
import pytest

from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.training.loop import compile_program, memory_need, new_state


def coco(argument="", **values):
    return Experiment(load_config("coco", argument, values))


class TestConfig:
    def test_rate_and_steps_follow_the_batch_of_the_argument(self):
        train = coco().config.train
        assert (train.batch_size, train.num_steps) == (16, 50 * 118_287 // 16)
        assert train.learning_rate == pytest.approx(16 * 4.5e-6)
        train = coco("batch_size=64,quantizer=fsp").config.train
        assert (train.batch_size, train.num_steps) == (64, 50 * 118_287 // 64)
        assert train.learning_rate == pytest.approx(64 * 4.5e-6)
        assert coco("batch_size=64", **{"train.learning_rate": 1e-4}).config.train.learning_rate == 1e-4

    @pytest.mark.parametrize("batch", ["0", "-1", "many"])
    def test_a_batch_of_nothing(self, batch):
        with pytest.raises(ConfigError, match=rf"batch_size={batch} behind the config file: expected a positive"):
            coco(f"batch_size={batch}")

    def test_schedule_is_constant(self):
        rate = coco().schedule
        np.testing.assert_allclose([rate(0), rate(100_000)], 7.2e-5)

    def test_loss_is_l1_and_lpips_alike(self):
        assert (coco().config.loss.l1_weight, coco().config.loss.lpips_weight) == (1.0, 1.0)

    def test_weights_of_the_metric_are_those_of_the_loss_unless_others_are_named(self):
        assert coco(**{"loss.lpips_weights": "a"}).modality.weights_of("lpips_weights") == "a"
        assert coco(**{"eval.lpips_weights": "b"}).modality.weights_of("lpips_weights") == "b"
        assert coco(**{"eval.lpips_weights": ""}).modality.weights_of("lpips_weights") == ""

    def test_network_has_the_published_size(self):
        network = coco("quantizer=vp,codebook_size=1024").network
        shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == pytest.approx(67.65e6, rel=1e-3)

    @pytest.mark.parametrize("method", ["vp", "fsp", "fsq", "simvq", "vq", "tokenbridge"])
    def test_the_rehearsal_differs_in_size_and_schedule_alone(self, method):
        sizes = {"data", "model", "codebook", "train", "checkpoint", "log"}
        full, small = (coco(f"quantizer={method}{more}").config.flatten() for more in ("", ",rehearsal=true"))
        assert full.keys() == small.keys()
        differing = {key for key in full if full[key] != small[key]}
        assert {key.partition(".")[0] for key in differing} <= sizes | {"quantizer"}
        assert {key for key in differing if key.startswith(("data.", "train."))} == {
            "data.name", "data.resize", "data.crop", "data.eval_crop", "data.flip", "data.num_threads",
            "data.cache_mib",
            "train.num_steps", "train.batch_size", "train.learning_rate", "train.schedule", "train.warmup_steps",
            "train.final_learning_rate", "train.clip_norm",
        }  # fmt: skip


def test_crops_are_those_of_the_paper(data_dir):
    """Short side to 256, the centre of it, in [-1, 1]."""
    run = coco(**{"data.name": "photo_tiles", "data.data_dir": str(data_dir)})
    batch = next(run.batches("validation", batch_size=4, crop=run.config.data.crop, seed=0))
    assert (batch.shape, batch.dtype) == ((4, 256, 256, 3), np.uint8)
    signal = run.modality.to_signal(batch)
    assert -1.0 <= signal.min() < -0.5
    assert 0.5 < signal.max() <= 1.0
    # Training and evaluation crop alike: the first epoch holds the very images that are evaluated.
    num = len(run.source("validation"))
    batches = run.batches("validation", batch_size=num, crop=run.config.data.crop, seed=0)
    trained = {image.tobytes() for image in next(batches)}
    evaluated = {image.tobytes() for _, image in run.examples("validation").items}
    assert trained == evaluated
    assert len(trained) == num


@pytest.mark.reliability
def test_the_whole_step_compiles_and_runs_on_one_image(data_dir, lpips_file, capsys):
    values = {"loss.lpips_weights": lpips_file, "data.name": "photo_tiles", "data.data_dir": str(data_dir)}
    run = coco("quantizer=vp,codebook_size=16384", **values, **{"train.batch_size": 1})
    program = compile_program(run)
    with capsys.disabled():
        print(f"\nconfigs/coco.py, K = 16384, one image: {memory_need(program.step)}")
    state = jax.device_put(new_state(run), program.state_sharding)
    before = jax.tree.map(np.asarray, state.params)
    batch = next(run.batches("train", batch_size=1, crop=run.config.data.crop, seed=0))
    state, metrics = program.step(state, program.frozen, jax.device_put(batch, program.batch_sharding))
    assert {"l1", "lpips", "acceptance_rate"} <= metrics.keys()
    assert all(np.isfinite(value) for value in metrics.values())
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), state.params["network"], before["network"])
    assert np.mean(jax.tree.leaves(moved)) > 0.9
