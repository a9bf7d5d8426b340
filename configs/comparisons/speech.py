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
    comparison.ablation_codebook_size = 256
    comparison.ablation_seeds = (0,)
    comparison.ablations = (
        ("fsq_fast", "quantizer=fsq"),  # at the rate of VP and FSP
        ("vq_fast", "quantizer=vq"),
        ("simvq_fast", "quantizer=simvq"),
        ("vp_slow", "quantizer=vp"),  # and the other way round
        ("fsp_slow", "quantizer=fsp"),
        ("fsq_norm", "quantizer=fsq,mean_weight=1.0,variance_weight=0.7"),  # at that rate, with L_norm of VP
        ("fsp_near_0", "quantizer=fsp"),  # starts as the others do
        ("fsp_plain", "quantizer=fsp,uniformity_weight=0.0"),  # without our term, as the paper has it
        ("vp_no_norm", "quantizer=vp,mean_weight=0.0,variance_weight=0.0"),
        ("vq_ema", "quantizer=vq,update=ema"),  # the known remedies
        ("vq_restart", "quantizer=vq,update=ema,restart_below=0.1"),
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
    # No L_norm holds the latents of these in place: at the rate of configs/speech.py FSQ's and VQ's went to a few
    # codes, SimVQ's in one trial of two. They get the published rate.
    slow = {"train": {"learning_rate": 5e-4, "warmup_steps": 100}}
    names = ("fsq", "vq", "simvq", "vp_slow", "fsp_slow", "vq_ema", "vq_restart")
    comparison.method_overrides = dict.fromkeys(names, slow)
    comparison.method_overrides.fsp_near_0 = {"model": {"bottleneck_init_scale": 0.1}}
    return comparison
