"""What is seen of a run while it trains."""

import json

import pytest

from tests import tiny
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.training.metric_log import read_metrics


@pytest.mark.system
def test_images(tmp_path, data_dir, capfd):
    """The scores of the last step are those of an evaluation of the same images."""
    watched = {"eval__every": 3, "eval__num_watched": 2, "codebook__every": 6, "eval__splits": ("test",)}
    tiny.do(tiny.config(data_dir, log__every=4, **watched), tmp_path)
    lines = {line["step"]: line for line in read_metrics(tmp_path)}
    assert lines.keys() == {2, 3, 4, 6}  # of checkpoints, evaluations, the log
    assert {"eval_psnr_db_continuous", "eval_psnr_db", "eval_cvu"} <= lines[6].keys()
    assert "eval_psnr_db_continuous" in lines[3]
    assert not {"eval_psnr_db", "eval_cvu"} & lines[3].keys()
    assert not any(key.startswith("eval_") for key in lines[4])
    results = json.loads(tiny.evaluation(tmp_path, "photos-test").read_text())
    assert lines[6]["eval_psnr_db_continuous"] == pytest.approx(results["psnr_db_continuous"], abs=1e-3)
    assert 0 < lines[6]["eval_cvu"] <= 1
    assert lines[4]["learning_rate"] == pytest.approx(float(tiny.experiment(data_dir).schedule(3)))
    assert lines[4]["unix_time"] < lines[6]["unix_time"]
    assert "psnr_db_continuous=" in capfd.readouterr().err


def test_a_codebook_without_an_evaluation_is_refused(data_dir):
    with pytest.raises(ConfigError, match=r"codebook.every=6 with eval.every=4: expected a multiple of it"):
        tiny.experiment(data_dir, codebook__every=6, eval__every=4)
