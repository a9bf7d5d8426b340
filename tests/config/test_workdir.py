"""What a later mode takes from its own config, and what from the training's."""

from vpvae_jax.config import workdir as layout
from vpvae_jax.config.files import load_config
from vpvae_jax.runtime.files import write_json


def test_a_later_mode_chooses_data_evaluation_and_codebook(tmp_path):
    write_json(tmp_path / layout.CONFIG, load_config("photos").to_dict())
    values = {
        "quantizer.kmeans_iterations": 7, "codebook.num_codes": 9, "eval.splits": ("test",), "data.eval_crop": 32,
        "train.num_steps": 5, "seed": 3,
    }  # fmt: skip
    merged = layout.with_stored_training(load_config("photos", "", values), tmp_path).flatten()
    stored = load_config("photos").flatten()
    assert {key: merged[key] for key in merged if merged[key] != stored[key]} == {
        "quantizer.kmeans_iterations": 7, "codebook.num_codes": 9, "eval.splits": ["test"], "data.eval_crop": 32,
    }  # fmt: skip
