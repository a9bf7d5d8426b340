import inspect

import pytest

from vpvae_jax.config import keys, quantizer_section
from vpvae_jax.config.quantizer_section import argument_docs, take_switch
from vpvae_jax.quantizers import QUANTIZERS
from vpvae_jax.runtime.errors import ConfigError


def section(argument, **tuned):
    """The section by key, `latent_norm.mean_weight` dotted."""
    made = quantizer_section.from_argument(argument, codebook_size=256, tuned=tuned)
    return {key: getattr(holder, name) for key, holder, name in keys.leaves(made)}


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("codebook_size", [16, 256, 16384])
def test_every_method_and_size_builds(name, codebook_size):
    argument = f"quantizer={name},codebook_size={codebook_size}"
    made = quantizer_section.build(quantizer_section.from_argument(argument, codebook_size=256))
    # Levels multiply to about K: 240 for 256, 15360 for 16384.
    assert made.codebook_size == pytest.approx(codebook_size, rel=0.07)


class TestSwitch:
    @pytest.mark.parametrize(
        ("argument", "expected"),
        [
            ("", (False, "")),
            ("rehearsal=true", (True, "")),
            ("quantizer=fsp,rehearsal=true,levels=4x3", (True, "quantizer=fsp,levels=4x3")),
            ("rehearsal=false,quantizer=vq", (False, "quantizer=vq")),
        ],
    )
    def test_is_taken_out_of_the_argument(self, argument, expected):
        assert take_switch(argument, "rehearsal") == expected

    @pytest.mark.parametrize("argument", ["rehearsal=yes", "rehearsal"])
    def test_other_values(self, argument):
        with pytest.raises(ConfigError, match=r"rehearsal=.*: expected true or false"):
            take_switch(argument, "rehearsal")

    def test_twice(self):
        with pytest.raises(ConfigError, match="rehearsal is given 2 times"):
            take_switch("rehearsal=true,rehearsal=true", "rehearsal")


def test_argument_over_tuned_over_default():
    assert section("")["eta"] == 1.0
    assert section("", vp={"eta": 2.0})["eta"] == 2.0
    assert section("eta=auto", vp={"eta": 2.0})["eta"] == "auto"
    assert section("quantizer=fsp,levels=4x3")["levels"] == (4, 3)
    assert section("quantizer=fsq,symmetric=False")["symmetric"] is False


def test_whole_numbers_become_real_where_real_ones_are_expected():
    assert isinstance(section("push_fraction=1")["push_fraction"], float)
    assert section("capacity=1000")["capacity"] == 1000
    assert section("")["capacity"] is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("quantizer=vqvae", "quantizer=vqvae: expected one of vp"),
        ("quantizer=simvp", r"quantizer=simvp: did you mean simvq\?"),
        ("codebook_size=100", "codebook_size=100: expected one of 16"),
        ("quantizer=vq,eta=2", r"quantizer\.eta is not a key of this config: expected one of name, codebook_size"),
        ("k_radus=2", r"quantizer\.k_radus is not a key of this config: did you mean k_radius\?"),
        ("fsp", "'fsp' behind the config file: expected key=value"),
        ("eta=1,eta=2", "each key once"),
        ("quantizer=fsq,symmetric=false", "symmetric='false': expected True or False"),
        ("latent_norm.mean_weight=abc", "mean_weight='abc': expected a number"),
        ("quantizer=fsp,latent_norm.mean_weight=auto", "mean_weight='auto': expected a number"),
        ("latent_norm.mean_weight=None", "mean_weight=None: expected a number"),
        ("latent_norm.mean_weight=True", "mean_weight=True: expected a number"),
        ("latent_dim=3.5", r"latent_dim=3\.5: expected a whole number"),
        ("k_radius=True", "k_radius=True: expected a whole number"),
        ("k_density=8.5", r"k_density=8\.5: expected a whole number"),
        ("latent_norm=1", "quantizer.latent_norm is a section"),
        ("eta=True", "eta=True: expected a number or a name"),
        ("eta=None", "eta=None: expected a number or a name"),
        ("eta=1x2", r"eta=\(1, 2\): expected a number or a name"),
        ("quantizer=fsp,levels=8", "levels=8: expected whole numbers, such as"),
        ("quantizer=fsp,activation=2", "activation=2: expected a name"),
        ("quantizer=fsp,levels=4x3,codebook_size=1024", "levels and codebook_size"),
    ],
)
def test_mistakes(argument, message):
    with pytest.raises(ConfigError, match=message):
        section(argument)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_argument_of_every_method_is_described(name):
    docs = argument_docs(QUANTIZERS[name])
    assert docs.keys() == inspect.signature(QUANTIZERS[name]).parameters.keys()
    assert all(docs.values())


def test_a_section_does_not_share_its_parts():
    first, second = (quantizer_section.from_argument("", codebook_size=256) for _ in range(2))
    first.latent_norm.mean_weight = 5.0
    assert second.latent_norm.mean_weight == 0.1
