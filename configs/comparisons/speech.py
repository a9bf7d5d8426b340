"""Every method on the speech of configs/speech.py: table, CVU curves.

python -m vpvae_jax.compare --comparison=configs/comparisons/speech.py --results=results/speech/comparison \
    --workdir=runs/comparison_speech --jobs=2
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    comparison = ml_collections.ConfigDict()
    comparison.config = "configs/speech.py"
    comparison.seeds = (0, 1)
    comparison.codebook_sizes = (256, 1024)
    # What the tables call a method: argument of the config file, less codebook_size.
    comparison.methods = (
        ("vp", "quantizer=vp"),
        ("fsp", "quantizer=fsp"),
        ("fsq", "quantizer=fsq"),  # symmetric with noise, the paper's baseline
        ("vq", "quantizer=vq"),
        ("simvq", "quantizer=simvq"),
        ("tokenbridge", "quantizer=tokenbridge"),
        ("none", "quantizer=none"),
    )
    comparison.ablation_codebook_size = 1024
    comparison.ablation_seeds = (0,)
    comparison.ablations = (  # of the two that collapse
        ("vq_slow", "quantizer=vq"),
        ("vq_ema", "quantizer=vq,update=ema"),
        ("vq_restart", "quantizer=vq,update=ema,restart_below=0.1"),
        ("simvq_fast", "quantizer=simvq"),
    )
    comparison.curve_seeds = (0,)  # their checkpoints are all fitted and scored: CVU over training
    comparison.curve_split = "validation"
    comparison.rate_methods = ()
    comparison.rate_codebook_sizes = ()
    comparison.refit_methods = ()
    comparison.refit_trained_at = ()
    comparison.refit_codebook_sizes = ()
    comparison.overrides = {  # of the config, for every run
        "train": {"num_steps": 600},
        "codebook": {"max_latents": 32_768},
        "checkpoint": {"every": 100, "keep": 1},
        "eval": {"num_pictures": 0},
    }
    comparison.method_overrides = {
        # After 240 steps usage of a batch was 0.007 at the 1.5e-3 of the others, 0.19 at the published 5e-4.
        "simvq": {"train": {"learning_rate": 5e-4, "warmup_steps": 100}},
        "vq_slow": {"train": {"learning_rate": 5e-4, "warmup_steps": 100}},
    }
    return comparison
