"""Every method on the photographs of configs/photos.py: table, curves, rate-distortion.

python -m vpvae_jax.compare --comparison=configs/comparisons/photos.py --results=results/photos/comparison \
    --workdir=runs/comparison --jobs=2
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    comparison = ml_collections.ConfigDict()
    comparison.config = "configs/photos.py"
    comparison.seeds = (0, 1, 2)
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
        ("vp_always", "quantizer=vp,accept=always"),
        ("vp_no_norm", "quantizer=vp,mean_weight=0.0,variance_weight=0.0"),
        ("vp_neighbor", "quantizer=vp,move=neighbor,eta=1.0"),
        ("vp_auto", "quantizer=vp,eta=auto"),
        ("fsp_normal", "quantizer=fsp,activation=normal"),
        ("fsp_laplace", "quantizer=fsp,activation=laplace"),
        ("fsp_paper", "quantizer=fsp,mean_weight=0.1,variance_weight=0.07,uniformity_weight=0.0"),
        ("fsp_no_norm", "quantizer=fsp,mean_weight=0.0,variance_weight=0.0,uniformity_weight=0.0"),
        ("fsq_norm", "quantizer=fsq,mean_weight=0.1,variance_weight=0.07"),  # as fsp_paper, which it answers
        ("fsq_original", "quantizer=fsq,symmetric=False,noise_rate=0.0"),
        ("fsq_original_norm", "quantizer=fsq,symmetric=False,noise_rate=0.0,mean_weight=0.1,variance_weight=0.07"),
        ("vq_ema", "quantizer=vq,update=ema,restart_below=0.1"),
    )
    comparison.curve_seeds = (0,)  # their checkpoints are all fitted and scored: CVU over training
    comparison.curve_split = "validation"
    comparison.rate_methods = ("vp", "fsp", "fsq", "none")  # trained at more sizes, with the first seed
    comparison.rate_codebook_sizes = (64,)
    comparison.refit_methods = ("vp", "none")  # one training, codebooks of other sizes afterwards
    comparison.refit_trained_at = (256, 1024)
    comparison.refit_codebook_sizes = (16, 64, 256, 1024, 4096)
    comparison.overrides = {  # of the config, for every run
        "train": {"num_steps": 1600},
        "codebook": {"max_latents": 65_536},
        "checkpoint": {"every": 200, "keep": 1},
        "eval": {"num_pictures": 2},
    }
    comparison.method_overrides = {}  # the same, for every run of a method: {"vq": {"train": {...}}}
    return comparison
