import pytest

from vpvae_jax.config_arguments import quantizer_section, take_switch
from vpvae_jax.errors import ConfigError
from vpvae_jax.quantizers import QUANTIZERS


def section(argument, **tuned):
    return quantizer_section(argument, codebook_size=256, tuned=tuned).to_dict()


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("codebook_size", [16, 256, 16384])
def test_every_method_and_size_builds(name, codebook_size):
    settings = section(f"quantizer={name},codebook_size={codebook_size}")
    made = QUANTIZERS[settings.pop("name")](**settings)
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

    @pytest.mark.parametrize("argument", ["rehearsal=yes", "rehearsal", "rehearsal=true,rehearsal=true"])
    def test_other_values(self, argument):
        with pytest.raises(ConfigError, match=r"rehearsal=.*: expected true or false, once"):
            take_switch(argument, "rehearsal")


def test_argument_over_tuned_over_default():
    assert section("")["eta"] == 1.0
    assert section("", vp={"eta": 2.0})["eta"] == 2.0
    assert section("eta=auto", vp={"eta": 2.0})["eta"] == "auto"
    assert section("quantizer=fsp,levels=4x3")["levels"] == (4, 3)
    assert section("quantizer=fsq,symmetric=False")["symmetric"] is False


def test_whole_numbers_become_real_where_real_ones_are_expected():
    assert isinstance(section("eta=2")["eta"], float)
    assert section("capacity=1000")["capacity"] == 1000
    assert section("")["capacity"] is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("quantizer=vqvae", "quantizer=vqvae: expected one of vp"),
        ("codebook_size=100", "codebook_size=100: expected one of 16"),
        ("quantizer=vq,eta=2", "eta: no setting of quantizer=vq"),
        ("fsp", "'fsp' behind the config file: expected key=value"),
        ("eta=1,eta=2", "each key once"),
        ("quantizer=fsq,symmetric=false", "symmetric=false: expected True or False"),
        ("mean_weight=abc", "mean_weight=abc: expected a number"),
        ("quantizer=fsp,mean_weight=auto", "mean_weight=auto: expected a number"),
        ("mean_weight=None", "mean_weight=None: expected a number"),
        ("mean_weight=True", "mean_weight=True: expected a number"),
        ("latent_dim=3.5", r"latent_dim=3\.5: expected a whole number"),
        ("k_radius=True", "k_radius=True: expected a whole number"),
        ("k_density=8.5", r"k_density=8\.5: expected a whole number"),
        ("eta=True", "eta=True: expected a number or a name"),
        ("quantizer=fsp,levels=8", "levels=8: expected whole numbers with x between them"),
        ("quantizer=fsp,activation=2", "activation=2: expected a name"),
        ("quantizer=fsp,levels=4x3,codebook_size=1024", "levels and codebook_size"),
    ],
)
def test_mistakes(argument, message):
    with pytest.raises(ConfigError, match=message):
        section(argument)
