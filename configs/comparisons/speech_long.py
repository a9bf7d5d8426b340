"""VP and FSP on the speech of configs/speech.py for 10,000 steps, scored at each thousand: hours on two CPU cores.

python -m vpvae_jax.compare --comparison=configs/comparisons/speech_long.py --results=results/speech/longer \
    --workdir=runs/speech_long --jobs=2

results/speech/long was made before VP's latents started near 0, so with
--comparison.method_overrides.vp.model.bottleneck_init_scale=1.0
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    comparison = ml_collections.ConfigDict()
    comparison.config = "configs/speech.py"
    comparison.seeds = (0,)
    comparison.codebook_sizes = (1024,)
    comparison.methods = (("vp", "quantizer=vp"), ("fsp", "quantizer=fsp"))
    comparison.ablation_codebook_size = 1024
    comparison.ablation_seeds = ()
    comparison.ablations = ()
    comparison.curve_seeds = (0,)
    comparison.curve_split = "test"
    comparison.rate_methods = ()
    comparison.rate_codebook_sizes = ()
    comparison.refit_methods = ()
    comparison.refit_trained_at = ()
    comparison.refit_codebook_sizes = ()
    comparison.overrides = {
        "train": {"num_steps": 10_000},
        "checkpoint": {"every": 1000, "keep": 1},
    }
    comparison.method_overrides = {"vp": {"model": {"bottleneck_init_scale": 0.1}}}
    return comparison
