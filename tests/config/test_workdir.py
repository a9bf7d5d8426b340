"""What a command may change of the config of a work directory, and what not; the run's tokenizers."""

import pytest

from vpvae_jax.config import workdir as layout
from vpvae_jax.config.files import load_config
from vpvae_jax.runtime.errors import CheckpointError, ConfigError


@pytest.fixture
def workdir(tmp_path):
    layout.write_config(load_config("photos"), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("values", "mode", "refused"),
    [
        ({"quantizer.kmeans_iterations": 7, "codebook.num_codes": 9, "eval.splits": ("test",)}, "later", ""),
        ({"data.source": "folder", "data.path": "mine", "data.resize": 64, "data.eval_crop": 32}, "later", ""),
        ({"train.num_steps": 5000}, "later", "train.num_steps is 5000 but 3600 there"),
        ({"train.learning_rate": 0.5, "seed": 3}, "later", "seed is 3 but 0 there; train.learning_rate is 0.5 but"),
        ({"quantizer.eta": 1.0}, "later", "quantizer.eta is 1.0 but 2.0 there"),
        ({"train.num_steps": 5000, "log.every": 7, "checkpoint.keep": 5, "codebook.num_codes": 9}, "train", ""),
        ({"train.num_steps": 3000}, "train", "train.num_steps is 3000 but 3600 there"),
        ({"data.path": "moved", "data.source": "folder"}, "train", ""),  # the loop compares digests of the data
        ({"data.resize": 64}, "train", "data.resize is 64 but 0 there"),
        ({"data.crop": 16}, "train", "data.crop is 16 but 32 there"),
        ({"train.init_from": "elsewhere"}, "train", "train.init_from is elsewhere but  there"),
    ],
)
def test_what_may_change(workdir, values, mode, refused):
    config = layout.overridden(workdir, values)
    if not refused:
        layout.check_may_follow(config, workdir, mode)
        return
    with pytest.raises(ConfigError, match="holds another config") as caught:
        layout.check_may_follow(config, workdir, mode)
    assert refused in str(caught.value)


def test_another_method_is_refused_by_the_keys_that_either_has(workdir):
    with pytest.raises(
        ConfigError, match=r"quantizer.eta is absent but 2.0 there; .*quantizer.name is fsq but vp there"
    ):
        layout.check_may_follow(load_config("photos", "quantizer=fsq"), workdir, "later")


def test_overrides_of_keys_that_do_not_exist(workdir):
    with pytest.raises(ConfigError, match=r"did you mean train\.num_steps"):
        layout.overridden(workdir, {"train.num_step": 3})


class TestTokenizerOf:
    def test_a_directory_of_no_run_is_a_tokenizers(self, tmp_path):
        assert layout.tokenizer_of(tmp_path) == tmp_path

    def test_the_current_one_or_another(self, workdir):
        with pytest.raises(CheckpointError, match="holds no tokenizer: fit a codebook first"):
            layout.tokenizer_of(workdir)
        for name in ("k64-step5", "k8-step5"):
            (workdir / layout.TOKENIZERS / name).mkdir(parents=True)
            layout.mark_current(workdir, name)
        assert layout.tokenizers(workdir) == ["k64-step5", "k8-step5"]
        assert layout.tokenizer_of(workdir).name == "k8-step5"
        assert layout.tokenizer_of(workdir, "k64-step5").name == "k64-step5"
        with pytest.raises(CheckpointError, match="holds no tokenizer 'k9': expected one of k64-step5, k8-step5"):
            layout.tokenizer_of(workdir, "k9")
