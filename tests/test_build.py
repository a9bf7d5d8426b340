import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax import build, config_arguments
from vpvae_jax.errors import ConfigError
from vpvae_jax.modalities import IMAGES

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
PHOTOS = pathlib.Path(__file__).parents[1] / "configs" / "photos.py"


def load_config(path=PHOTOS, argument="", **values):
    """The config of a file, with values by dotted key."""
    return config_arguments.load_config(path, argument, values)


def refusal(check, **values):
    """The message of the ConfigError that `check` raises for the photos config with these values."""
    with pytest.raises(ConfigError) as caught:
        check(load_config(**values))
    message = str(caught.value)
    assert "\n" not in message
    return message


_CHOICES = build.choices_of(IMAGES)


def _keys(kind):
    return [key for key, bound in build.bounds(IMAGES).items() if bound == kind]


class TestCheckConfig:
    def test_default_passes(self):
        build.check_config(load_config())

    @pytest.mark.parametrize("key", _keys("positive"))
    @pytest.mark.parametrize("value", [0, -1])
    def test_what_must_be_positive(self, key, value):
        value = type(build.flatten(load_config())[key])(value)
        assert refusal(build.check_config, **{key: value}).startswith(f"{key}={value}: expected a positive number")

    @pytest.mark.parametrize("key", _keys("not negative"))
    def test_what_may_be_zero_but_not_less(self, key):
        kind = type(build.flatten(load_config())[key])
        build.check_config(load_config(**{key: kind(0)}))
        assert refusal(build.check_config, **{key: kind(-1)}).startswith(f"{key}={kind(-1)}: expected 0 or more")

    @pytest.mark.parametrize("key", ["train.learning_rate", "train.clip_norm", "loss.l1_weight", "train.ema_decay"])
    def test_not_a_number(self, key):
        assert key in refusal(build.check_config, **{key: math.nan})

    @pytest.mark.parametrize("key", _CHOICES)
    def test_unknown_names_are_answered_with_the_known(self, key):
        message = refusal(build.check_config, **{key: "unheard-of"})
        assert message.startswith(f"{key}='unheard-of': expected one of ")
        assert all(choice in message for choice in _CHOICES[key])

    @pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
    def test_ema_decay(self, decay):
        assert f"train.ema_decay={decay}" in refusal(build.check_config, **{"train.ema_decay": decay})

    @pytest.mark.parametrize("key", ["train.adam_b1", "train.adam_b2"])
    @pytest.mark.parametrize("decay", [-0.1, 1.0])
    def test_adam_decays(self, key, decay):
        assert "train.adam_b1=" in refusal(build.check_config, **{key: decay})

    @pytest.mark.parametrize("multipliers", [(1, 0, 2), (1, -2), (1, 1.5)])
    def test_channel_multipliers(self, multipliers):
        message = refusal(build.check_config, **{"model.channel_multipliers": multipliers})
        assert message.startswith("model.channel_multipliers=")

    @pytest.mark.parametrize("key", ["data.crop", "data.eval_crop"])
    def test_crop_that_the_stride_does_not_divide(self, key):
        assert refusal(build.check_config, **{key: 30}) == f"{key}=30: expected a multiple of the network's stride 4"
        build.check_config(load_config(**{key: 28}))

    @pytest.mark.parametrize(("crop", "eval_crop"), [(32, 256), (256, 32)])
    def test_resize_below_a_crop(self, crop, eval_crop):
        crops = {"data.crop": crop, "data.eval_crop": eval_crop}
        assert "data.resize=255 makes images smaller" in refusal(build.check_config, **crops, **{"data.resize": 255})
        build.check_config(load_config(**crops, **{"data.resize": 256}))

    def test_fewer_latents_than_codes(self):
        message = refusal(build.check_config, **{"codebook.max_latents": 255})
        assert "codebook.max_latents=255 latents cannot make a codebook of 256 codes" in message
        build.check_config(load_config(**{"codebook.max_latents": 256}))

    def test_batch_that_does_not_divide_over_the_devices(self, monkeypatch):
        monkeypatch.setattr(jax, "device_count", lambda: 8)
        message = refusal(build.check_config, **{"train.batch_size": 12})
        assert "train.batch_size=12 does not divide over 8 devices" in message
        build.check_config(load_config(**{"train.batch_size": 16}))


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
        for function in (build.build_schedule, build.build_optimizer):
            assert f"train.warmup_steps={num_warmup} of 1000 steps" in refusal(function, **values)

    def test_cosine(self):
        schedule = build.build_schedule(load_config(**self.settings, **{"train.schedule": "cosine"}))
        rates = np.array([schedule(step) for step in (0, 5, 10, 55, 100)])
        # The start is above 0, so that the first step moves; half way down the cosine is the mean of both ends.
        np.testing.assert_allclose(rates, [1e-3, 5.5e-3, 1e-2, 5.05e-3, 1e-4], rtol=1e-5)

    def test_constant(self):
        schedule = build.build_schedule(load_config(**self.settings, **{"train.schedule": "constant"}))
        np.testing.assert_allclose([schedule(step) for step in (0, 10, 11, 100)], [1e-3, 1e-2, 1e-2, 1e-2], rtol=1e-5)

    def test_one_cycle(self):
        schedule = build.build_schedule(load_config(**self.settings, **{"train.schedule": "one_cycle"}))
        rates = np.array([schedule(step) for step in (0, 5, 10, 15, 20, 60, 100)])
        np.testing.assert_allclose(rates, [1e-3, 5.5e-3, 1e-2, 5.5e-3, 1e-3, 5.5e-4, 1e-4], rtol=1e-5)

    @pytest.mark.parametrize("num_warmup", [0, 50])
    def test_one_cycle_falls_as_long_as_it_rises(self, num_warmup):
        values = self.settings | {"train.schedule": "one_cycle", "train.warmup_steps": num_warmup}
        assert "expected at least 1 and less than half" in refusal(build.build_schedule, **values)

    @pytest.mark.parametrize(("name", "end"), [("cosine", 1e-4), ("constant", 1e-2)])
    def test_without_warmup(self, name, end):
        values = self.settings | {"train.schedule": name, "train.warmup_steps": 0}
        schedule = build.build_schedule(load_config(**values))
        np.testing.assert_allclose([schedule(0), schedule(100)], [1e-2, end], rtol=1e-5)


class TestOptimizer:
    @staticmethod
    def first_update(gradient, **values):
        optimizer = build.build_optimizer(load_config(**values))
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
        quantizer = build.build_quantizer(load_config(**values))
        assert (quantizer.input_dim, quantizer.latent_dim, quantizer.codebook_size) == (5, 5, 64)
        _, state = jax.eval_shape(quantizer.init, jax.random.key(0))
        assert state.memory.samples.shape == (64 * 7, 5)

    def test_default_capacity_is_that_of_the_paper(self):
        _, state = jax.eval_shape(build.build_quantizer(load_config()).init, jax.random.key(0))
        assert state.memory.samples.shape == (256 * 16 * 3, 3)

    @pytest.mark.parametrize("eta", [0.0, -1.0, math.inf, math.nan])
    def test_eta(self, eta):
        assert f"eta={eta}" in refusal(build.build_quantizer, **{"quantizer.eta": eta})

    @pytest.mark.parametrize("rank", ["k_radius", "k_density"])
    def test_rank_above_the_capacity(self, rank):
        values = {"quantizer.capacity": 100, "quantizer.k_radius": 100, f"quantizer.{rank}": 101}
        message = refusal(build.build_quantizer, **values)
        assert f"memory holds 100 latents but {rank}=101" in message

    @pytest.mark.parametrize("key", ["codebook_size", "latent_dim", "k_radius", "k_density", "push_fraction"])
    def test_zero(self, key):
        kind = float if key == "push_fraction" else int
        assert f"{key}={kind(0)}" in refusal(build.build_quantizer, **{f"quantizer.{key}": kind(0)})

    def test_setting_of_another_quantizer(self):
        config = load_config()
        with config.unlocked():
            config.quantizer.commitment = 0.25
        with pytest.raises(ConfigError, match="commitment"):
            build.build_quantizer(config)

    def test_many_dimensions_warn(self):
        with pytest.warns(UserWarning, match="latent dimension 17 is above 16"):
            build.build_quantizer(load_config(**{"quantizer.latent_dim": 17}))

    def test_16_dimensions_do_not(self, recwarn):
        build.build_quantizer(load_config(**{"quantizer.latent_dim": 16}))
        assert not recwarn.list


class TestNetwork:
    def test_takes_the_values_of_the_config(self):
        values = {"channels": 12, "channel_multipliers": (1, 3), "dtype": "bfloat16", "norm": "group"}
        values = {f"model.{key}": value for key, value in values.items()} | {"quantizer.latent_dim": 4}
        config = load_config(**values)
        network = build.build_network(config, build.build_quantizer(config))
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
        config = load_config(**{"model.channel_multipliers": multipliers})
        assert build.modality_of(config).stride(config) == stride


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds(path):
    config = load_config(path)
    build.check_config(config)
    quantizer = build.build_quantizer(config)
    network = build.build_network(config, quantizer)
    optimizer = build.build_optimizer(config)
    modality = build.modality_of(config)
    batch = modality.batch_shape(2, config.data.crop)

    def start(key):
        signal = modality.to_signal(jnp.zeros(batch.shape, batch.dtype))
        variables = network.init(key, signal)
        z = network.apply(variables, signal, method="encode")
        return signal, z, network.apply(variables, signal), optimizer.init(variables["params"]), quantizer.init(key)

    signal, z, reconstruction, _, _ = jax.eval_shape(start, jax.random.key(0))
    assert math.prod(z.shape[:-1]) == 2 * modality.tokens(config, config.data.crop)
    assert z.shape[-1] == quantizer.input_dim
    assert reconstruction.shape == signal.shape


class TestFlatten:
    def test_config(self):
        flat = build.flatten(load_config(**{"train.learning_rate": 0.125, "model.channel_multipliers": (1, 2, 2)}))
        assert flat["seed"] == 0
        assert flat["train.learning_rate"] == 0.125
        assert flat["quantizer.k_radius"] is None
        assert flat["model.channel_multipliers"] == [1, 2, 2]

    def test_nested_dict(self):
        assert build.flatten({"a": {"b": {"c": 1}, "d": (2, 3)}, "e": None}) == {"a.b.c": 1, "a.d": [2, 3], "e": None}


class TestDataSet:
    @pytest.mark.parametrize(("name", "expected"), [("photos", "photos"), ("coco/2017", "coco_2017"), ("/x/y/", "x_y")])
    def test_name_of_a_tfds_data_set(self, name, expected):
        assert build.dataset_name(load_config(**{"data.name": name})) == expected

    def test_name_of_a_folder(self, tmp_path):
        folder = tmp_path / "holiday"
        assert build.dataset_name(load_config(**{"data.source": "folder", "data.path": f"{folder}/"})) == "holiday"

    def test_source_of_a_folder(self, tmp_path):
        for name in ("a.png", "b.png", "c.png"):
            (tmp_path / name).write_bytes(b"")
        config = load_config(**{"data.source": "folder", "data.path": str(tmp_path)})
        assert [record.name for record in build.build_source(config, "train")] == ["a.png", "b.png"]


def test_codebook_size_afterwards_does_not_touch_the_training():
    values = {"quantizer.capacity": 300, "quantizer.k_radius": 10, "codebook.num_codes": 400}
    config = load_config(argument="eta=auto", **values)
    trained, fitted = build.build_quantizer(config), build.build_quantizer(config, for_tokens=True)
    assert (trained.codebook_size, fitted.codebook_size) == (256, 400)
    latents = jax.random.normal(jax.random.key(0), (500, 3))
    assert fitted.fit({}, {}, latents, jax.random.key(1)).shape == (400, 3)
