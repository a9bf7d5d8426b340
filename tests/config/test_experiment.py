"""From a config to the objects of a run."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.runtime.errors import ConfigError

CONFIGS = [
    pytest.param(path, marks=[pytest.mark.system] * (path.stem == "librispeech"), id=path.stem)  # seconds
    for path in sorted((tiny.ROOT / "configs").glob("*.py"))
]


def photos(argument="", **values):
    """The photos config assembled, with values by dotted key."""
    return Experiment(load_config("photos", argument, values))


def refusal(**values):
    """The message of the ConfigError that these values of the photos config raise."""
    with pytest.raises(ConfigError) as caught:
        photos(**values)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestCheck:
    @pytest.mark.parametrize("multipliers", [(1, 0, 2), (1, -2)])
    def test_channel_multipliers(self, multipliers):
        assert refusal(**{"model.channel_multipliers": multipliers}).startswith("model.channel_multipliers=")

    @pytest.mark.parametrize("key", ["data.crop", "data.eval_crop"])
    def test_crop_that_the_stride_does_not_divide(self, key):
        assert refusal(**{key: 30}) == f"{key}=30: expected a multiple of the network's stride 4"
        photos(**{key: 28})

    @pytest.mark.parametrize(("crop", "eval_crop"), [(32, 256), (256, 32)])
    def test_resize_below_a_crop(self, crop, eval_crop):
        crops = {"data.crop": crop, "data.eval_crop": eval_crop}
        assert "data.resize=255 makes images smaller" in refusal(**crops, **{"data.resize": 255})
        photos(**crops, **{"data.resize": 256})

    def test_fewer_latents_than_codes(self):
        message = refusal(**{"codebook.max_latents": 255})
        assert "codebook.max_latents=255 latents cannot make a codebook of 256 codes" in message
        photos(**{"codebook.max_latents": 256})

    def test_batch_that_does_not_divide_over_the_devices(self, monkeypatch):
        monkeypatch.setattr(jax, "device_count", lambda: 8)
        message = refusal(**{"train.batch_size": 12})
        assert "train.batch_size=12 does not divide over 8 devices" in message
        photos(**{"train.batch_size": 16})

    def test_a_running_mean_of_the_network_beside_a_codebook_that_has_none(self):
        """The tokenizer would decode mean weights with the codebook of the last ones."""
        with pytest.raises(ConfigError, match=r"train\.ema_decay=0\.9 with quantizer\.update=ema"):
            photos("quantizer=vq,update=ema", **{"train.ema_decay": 0.9})
        photos("quantizer=vq", **{"train.ema_decay": 0.9})


class TestSchedule:
    settings = {  # noqa: RUF012
        "train.num_steps": 100,
        "train.warmup_steps": 10,
        "train.learning_rate": 1e-2,
        "train.final_learning_rate": 1e-4,
    }

    @pytest.mark.parametrize("num_warmup", [1000, 1001])
    def test_warmup_as_long_as_training(self, num_warmup):
        values = {"train.num_steps": 1000, "train.warmup_steps": num_warmup}
        assert f"train.warmup_steps={num_warmup} of 1000 steps" in refusal(**values)

    def test_cosine(self):
        schedule = photos(**self.settings, **{"train.schedule": "cosine"}).schedule
        rates = np.array([schedule(step) for step in (0, 5, 10, 55, 100)])
        # The start is above 0, so that the first step moves; half way down the cosine is the mean of both ends.
        np.testing.assert_allclose(rates, [1e-3, 5.5e-3, 1e-2, 5.05e-3, 1e-4], rtol=1e-5)

    def test_constant(self):
        schedule = photos(**self.settings, **{"train.schedule": "constant"}).schedule
        np.testing.assert_allclose([schedule(step) for step in (0, 10, 11, 100)], [1e-3, 1e-2, 1e-2, 1e-2], rtol=1e-5)

    def test_one_cycle(self):
        schedule = photos(**self.settings, **{"train.schedule": "one_cycle"}).schedule
        rates = np.array([schedule(step) for step in (0, 5, 10, 15, 20, 60, 100)])
        np.testing.assert_allclose(rates, [1e-3, 5.5e-3, 1e-2, 5.5e-3, 1e-3, 5.5e-4, 1e-4], rtol=1e-5)

    @pytest.mark.parametrize("num_warmup", [0, 50])
    def test_one_cycle_falls_as_long_as_it_rises(self, num_warmup):
        values = self.settings | {"train.schedule": "one_cycle", "train.warmup_steps": num_warmup}
        assert "expected at least 1 and less than half" in refusal(**values)

    @pytest.mark.parametrize(("name", "end"), [("cosine", 1e-4), ("constant", 1e-2)])
    def test_without_warmup(self, name, end):
        values = self.settings | {"train.schedule": name, "train.warmup_steps": 0}
        schedule = photos(**values).schedule
        np.testing.assert_allclose([schedule(0), schedule(100)], [1e-2, end], rtol=1e-5)


class TestOptimizer:
    @staticmethod
    def first_update(gradient, **values):
        optimizer = photos(**values).optimizer
        params = jnp.zeros_like(gradient)
        # The second step tells clipping from none: Adam's first step does not depend on the scale.
        state = optimizer.init(params)
        _, state = optimizer.update(gradient, state, params)
        return optimizer.update(gradient / 1000, state, params)[0]

    def test_large_gradients_are_clipped(self):
        gradient = jnp.array([300.0, 400.0])
        clipped = self.first_update(gradient, **{"train.clip_norm": 0.5})
        # Both gradients have norm 0.5 once clipped: two equal steps of Adam.
        unclipped_equal = self.first_update(jnp.array([0.3, 0.4]), **{"train.clip_norm": 0.0})
        not_clipped = self.first_update(gradient, **{"train.clip_norm": 0.0})
        np.testing.assert_allclose(not_clipped, unclipped_equal, rtol=1e-4)
        assert jnp.linalg.norm(clipped) > 1.2 * jnp.linalg.norm(not_clipped)


class TestQuantizer:
    def test_takes_the_values_of_the_config(self):
        values = {"quantizer.latent_dim": 5, "quantizer.codebook_size": 64, "quantizer.k_radius": 7}
        quantizer = photos(**values).quantizer
        assert (quantizer.input_dim, quantizer.latent_dim, quantizer.codebook_size) == (5, 5, 64)
        _, state = jax.eval_shape(quantizer.init, jax.random.key(0))
        assert state.memory.samples.shape == (64 * 7, 5)

    def test_default_capacity_is_that_of_the_paper(self):
        _, state = jax.eval_shape(photos().quantizer.init, jax.random.key(0))
        assert state.memory.samples.shape == (256 * 16 * 3, 3)

    @pytest.mark.parametrize("eta", [0.0, -1.0, math.inf, math.nan])
    def test_eta(self, eta):
        assert f"eta={eta}" in refusal(**{"quantizer.eta": eta})

    @pytest.mark.parametrize("number", [0, -3])
    def test_no_iteration_of_kmeans(self, number):
        assert f"kmeans_iterations={number}: expected at least 1" in refusal(**{"quantizer.kmeans_iterations": number})

    @pytest.mark.parametrize("rank", ["k_radius", "k_density"])
    def test_rank_above_the_capacity(self, rank):
        values = {"quantizer.capacity": 100, "quantizer.k_radius": 100, f"quantizer.{rank}": 101}
        assert f"memory holds 100 latents but {rank}=101" in refusal(**values)

    @pytest.mark.parametrize("key", ["codebook_size", "latent_dim", "k_radius", "k_density", "push_fraction"])
    def test_zero(self, key):
        kind = float if key == "push_fraction" else int
        assert f"{key}={kind(0)}" in refusal(**{f"quantizer.{key}": kind(0)})

    def test_setting_of_another_quantizer(self):
        with pytest.raises(ConfigError, match=r"quantizer\.commitment_weight is not a key"):
            load_config("photos", "", {"quantizer.commitment_weight": 0.25})

    def test_codebook_size_afterwards_does_not_touch_the_training(self):
        values = {"quantizer.capacity": 300, "quantizer.k_radius": 10, "codebook.num_codes": 400}
        run = photos("eta=auto", **values)
        assert (run.quantizer.codebook_size, run.token_quantizer.codebook_size) == (256, 400)
        latents = jax.random.normal(jax.random.key(0), (500, 3))
        assert run.token_quantizer.fit({}, {}, latents, jax.random.key(1)).shape == (400, 3)


class TestDataSettings:
    def test_a_folder_without_a_path(self):
        assert "data.source=folder but data.path is empty" in refusal(**{"data.source": "folder"})

    def test_values_that_were_set_past_the_checks(self):
        """As a config file may do."""
        config = load_config("photos")
        config.train.num_steps = "many"
        with pytest.raises(ConfigError, match=r"train\.num_steps='many': expected a whole number"):
            Experiment(config)
        with pytest.raises(AttributeError, match="lerning_rate"):
            config.train.lerning_rate = 1.0


class TestNetwork:
    def test_takes_the_values_of_the_config(self):
        values = {"channels": 12, "channel_multipliers": (1, 3), "dtype": "bfloat16", "norm": "group"}
        values = {f"model.{key}": value for key, value in values.items()} | {"quantizer.latent_dim": 4}
        network = photos(**values).network
        assert (network.feature_dim, network.input_dim) == (16, 4)
        for part in (network.encoder, network.decoder):
            assert part.channels == 12
            assert part.channel_multipliers == (1, 3)
            assert part.num_res_blocks == 1
            assert part.attention_levels == ()
            assert not part.middle_attention
            assert part.norm == "group"
            assert part.dtype == jnp.bfloat16

    @pytest.mark.parametrize(("multipliers", "stride"), [((1,), 1), ((1, 2, 2), 4), ((1, 2, 2, 4), 8)])
    def test_downsampling(self, multipliers, stride):
        assert photos(**{"model.channel_multipliers": multipliers}).modality.stride == stride


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_builds(path):
    run = Experiment(load_config(path))
    modality, network = run.modality, run.network
    crop = run.config.data.crop
    batch = modality.batch_shape(2, crop)

    def start(key):
        signal = modality.to_signal(jnp.zeros(batch.shape, batch.dtype))
        variables = network.init(key, signal)
        z = network.apply(variables, signal, method="encode")
        return (
            signal,
            z,
            network.apply(variables, signal),
            run.optimizer.init(variables["params"]),
            run.quantizer.init(key),
        )

    signal, z, reconstruction, _, _ = jax.eval_shape(start, jax.random.key(0))
    assert math.prod(z.shape[:-1]) == 2 * modality.tokens(crop)
    assert z.shape[-1] == run.quantizer.input_dim
    assert reconstruction.shape == signal.shape


class TestData:
    @pytest.mark.parametrize(("name", "expected"), [("photos", "photos"), ("coco/2017", "coco_2017"), ("/x/y/", "x_y")])
    def test_name_of_a_tfds_data_set(self, name, expected):
        assert photos(**{"data.name": name}).data_name == expected

    def test_name_of_a_folder(self, tmp_path):
        folder = tmp_path / "holiday"
        assert photos(**{"data.source": "folder", "data.path": f"{folder}/"}).data_name == "holiday"

    def test_source_of_a_folder(self, tmp_path):
        for name in ("a.png", "b.png", "c.png"):
            (tmp_path / name).write_bytes(b"")
        run = photos(**{"data.source": "folder", "data.path": str(tmp_path)})
        assert [record.name for record in run.source("train")] == ["a.png", "b.png"]
        assert run.source("train") is run.source("train")


def test_one_train_command_builds_each_object_once(trained_built):
    assert trained_built == [
        "config", "loss", "network", "optimizer", "quantizer", "schedule", "source test", "source train",
        "source validation",
    ]  # fmt: skip
