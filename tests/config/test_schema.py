"""What the schema says is what is checked, for every key of every config."""

import dataclasses
import math

import pytest

from tests import tiny
from vpvae_jax.config import keys, schema
from vpvae_jax.config.files import load_config
from vpvae_jax.runtime import settings
from vpvae_jax.runtime.errors import ConfigError

NAMES = ("photos", "speech", "coco", "librispeech")


def _keys(name, wanted):
    """Dotted keys of a config whose `Setting` fulfils a condition."""
    config = load_config(name)
    return [
        pytest.param(name, key, id=f"{name}-{key}")
        for key, holder, field in keys.leaves(config)
        if wanted(keys.about(holder, field))
    ]


def _all_keys(wanted):
    return [param for name in ("photos", "speech") for param in _keys(name, wanted)]


def _refusal(name, key, value):
    config = load_config(name)
    *path, field = key.split(".")
    holder = config
    for part in path:
        holder = getattr(holder, part)
    setattr(holder, field, value)
    with pytest.raises(ConfigError) as caught:
        keys.check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_the_sections_is_described(name):
    config = load_config(name)
    for key, holder, field in keys.leaves(config):
        if not key.startswith("quantizer."):  # described by its factory's docstring
            assert keys.about(holder, field).doc, key
    keys.check(config)


@pytest.mark.parametrize(("name", "key"), _all_keys(lambda about: about.bound == settings.POSITIVE))
def test_what_must_be_positive(name, key):
    for value in (0, -1):
        assert _refusal(name, key, value).startswith(f"{key}={value}: expected a positive number")


@pytest.mark.parametrize(("name", "key"), _all_keys(lambda about: about.bound == settings.NOT_NEGATIVE))
def test_what_may_be_zero_but_not_less(name, key):
    assert _refusal(name, key, -1).startswith(f"{key}=-1: expected 0 or more")


@pytest.mark.parametrize(("name", "key"), _all_keys(lambda about: about.bound == settings.DECAY))
def test_decays(name, key):
    for value in (-0.1, 1.0, 1.5):
        assert _refusal(name, key, value).startswith(f"{key}={value}: expected a decay in [0, 1)")


@pytest.mark.parametrize(("name", "key"), _all_keys(lambda about: bool(about.choices)))
def test_unknown_words_are_answered_with_the_known(name, key):
    assert _refusal(name, key, "unheard-of").startswith(f"{key}='unheard-of': expected one of ")


def test_the_nearest_word_is_named():
    assert _refusal("photos", "train.schedule", "cosin") == "train.schedule='cosin': did you mean cosine?"


def test_not_a_number():
    assert _refusal("photos", "train.learning_rate", math.nan).startswith("train.learning_rate=nan: expected a finite")


def test_every_key_has_one_default_and_one_type():
    """A section's fields are the only place that names them."""
    for name in NAMES:
        for key, holder, field in keys.leaves(load_config(name)):
            if not key.startswith("quantizer."):
                kind = next(f.type for f in dataclasses.fields(holder) if f.name == field)
                assert keys.typed(key, getattr(holder, field), kind) == getattr(holder, field)


class TestAssign:
    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("train.num_stepz", 3, r"train\.num_stepz is not a key of this config: did you mean train\.num_steps\?"),
            ("trian.num_steps", 3, r"did you mean train\.num_steps\?"),
            ("train.num_steps", "many", r"train\.num_steps='many': expected a whole number"),
            ("train.num_steps", 2.5, r"train\.num_steps=2\.5: expected a whole number"),
            ("train.num_steps", True, r"train\.num_steps=True: expected a whole number"),
            ("train.learning_rate", "fast", r"expected a number"),
            ("data.flip", 1, r"data\.flip=1: expected True or False"),
            ("eval.splits", "validation", r"expected names, such as \('validation', 'test'\)"),
            ("eval.splits", (1,), r"expected names"),
            ("model.channel_multipliers", (1, 1.5), r"expected whole numbers"),
            ("train", 1, r"train is a section: set one of its keys, such as train\.num_steps"),
        ],
    )
    def test_mistakes(self, key, value, message):
        with pytest.raises(ConfigError, match=message):
            load_config("photos", "", {key: value})

    def test_values_take_the_type_of_the_key(self):
        config = load_config("photos", "", {"train.learning_rate": 1, "eval.splits": ["test"]})
        assert (config.train.learning_rate, config.eval.splits) == (1.0, ("test",))
        assert isinstance(config.train.learning_rate, float)
        assert load_config("photos", "", {"codebook.num_codes": None}).codebook.num_codes is None


class TestDict:
    @pytest.mark.parametrize("name", NAMES)
    def test_round_trip(self, name):
        config = load_config(name)
        assert schema.from_dict(config.to_dict()) == config

    def test_round_trip_of_every_kind_of_quantizer(self):
        config = load_config("photos", "quantizer=fsp,levels=4x3,latent_norm.mean_weight=0.5")
        again = schema.from_dict(config.to_dict())
        assert again.quantizer.latent_norm.mean_weight == 0.5
        assert again.quantizer.levels == (4, 3)
        assert again == config

    def test_a_key_that_is_lacking_takes_its_default(self):
        content = load_config("photos").to_dict()
        del content["train"]["shard_params"]
        assert schema.from_dict(content).train.shard_params is False

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c.pop("version"), "stored by another version of vpvae_jax"),
            (lambda c: c.update(version=1), "stored by another version of vpvae_jax"),
            (lambda c: c["train"].update(speed=3), "train.speed is not a key"),
            (lambda c: c["train"].update(num_steps="x"), "train.num_steps='x'"),
            (lambda c: c["model"].update(name="cnn"), "model.name='cnn'"),
            (lambda c: c["quantizer"].update(name="cnn"), "quantizer.name='cnn'"),
            (lambda c: c["quantizer"].pop("latent_dim"), "quantizer.latent_dim is lacking"),
            (lambda c: c.update(quantizer=3), "quantizer.name=''"),
        ],
    )
    def test_what_cannot_be_read(self, change, message):
        content = load_config("photos").to_dict()
        change(content)
        with pytest.raises(ConfigError, match=message):
            schema.from_dict(content)

    def test_flat(self):
        flat = load_config("photos", "", {"train.learning_rate": 0.125}).flatten()
        assert flat["train.learning_rate"] == 0.125
        assert flat["quantizer.k_radius"] is None
        assert flat["model.channel_multipliers"] == [1, 2, 4]
        assert flat["quantizer.latent_norm.mean_weight"] == 0.04


def test_what_a_key_affects_decides_what_may_differ():
    config = load_config("photos")
    free = config.keys_that_affect("nothing", "codebook", "metrics")
    assert {"log.every", "checkpoint.keep_best", "debug.nans", "loss.lpips_weights", "eval.splits"} <= free
    assert {"quantizer.kmeans_iterations", "codebook.num_codes", "data.eval_crop", "model.remat"} <= free
    bound = config.keys_that_affect("state")
    assert {"seed", "train.learning_rate", "quantizer.eta", "quantizer.latent_norm.mean_weight", "data.crop"} <= bound
    assert config.keys_that_affect("length") == {"train.num_steps"}
    assert config.keys_that_affect("source") == {"data.source", "data.name", "data.path", "data.train_split"}
    assert config.keys_that_affect("reading") == {"data.resize"}
    others = config.keys_that_affect("length", "source", "reading")
    assert free | bound | others == set(config.flatten())


class TestFind:
    def test_by_name_and_by_path(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)  # not the repository
        for name in ("photos", "photos.py", "configs/photos.py", tiny.ROOT / "configs" / "photos.py"):
            assert load_config(name).data.name == "photos"

    def test_the_nearest_name_is_given(self):
        with pytest.raises(ConfigError, match=r"neither a file nor a config of the package: did you mean photos\?"):
            load_config("photoz")

    @pytest.mark.parametrize("name", ["", ".", "/", "x" * 300])
    def test_names_that_no_file_has(self, name):
        with pytest.raises(ConfigError, match="is neither a file nor a config of the package"):
            load_config(name)

    def test_a_file_that_gives_something_else(self, tmp_path):
        (tmp_path / "old.py").write_text("def get_config():\n    return {'train': {}}\n")
        with pytest.raises(ConfigError, match=r"old\.py gives a dict: expected image_config"):
            load_config(tmp_path / "old.py")

    def test_a_file_without_get_config(self, tmp_path):
        (tmp_path / "mine.py").write_text("x = 1\n")
        with pytest.raises(ConfigError, match=r"has no get_config\(\)"):
            load_config(tmp_path / "mine.py")
