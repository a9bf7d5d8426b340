"""VP against the plain autoencoder where training is longer: the larger codebook of configs/comparisons/photos.py.

python -m vpvae_jax.compare --comparison=configs/comparisons/photos_long.py --results=results/photos/long \
    --workdir=runs/long --jobs=2
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    comparison = ml_collections.ConfigDict()
    comparison.config = "configs/photos.py"
    comparison.seeds = (0, 1, 2)
    comparison.codebook_sizes = (1024,)
    comparison.methods = (("vp", "quantizer=vp"), ("none", "quantizer=none"))
    comparison.ablation_codebook_size = 1024
    comparison.ablation_seeds = ()
    comparison.ablations = ()
    comparison.curve_seeds = ()
    comparison.curve_split = "validation"
    comparison.rate_methods = ()
    comparison.rate_codebook_sizes = ()
    comparison.refit_methods = ()
    comparison.refit_trained_at = ()
    comparison.refit_codebook_sizes = ()
    comparison.overrides = {
        "train": {"num_steps": 2400},
        "codebook": {"max_latents": 65_536},
        "eval": {"num_pictures": 2},
    }
    comparison.method_overrides = {}
    return comparison
