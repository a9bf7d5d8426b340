"""Every method on the photographs of configs/photos.py: table, curves, rate-distortion.

python -m vpvae_jax.main --mode=compare --comparison=configs/comparisons/photos.py \
    --results=results/photos/comparison --workdir=runs/comparison --jobs=2
"""

from vpvae_jax.compare.settings import Comparison

_NO_NORM = "latent_norm.mean_weight=0.0,latent_norm.variance_weight=0.0"
_PAPERS_NORM = "latent_norm.mean_weight=0.1,latent_norm.variance_weight=0.07"


def get_config() -> Comparison:
    return Comparison(
        config="photos",
        seeds=(0, 1, 2),
        codebook_sizes=(256, 1024),
        methods=(
            ("vp", "quantizer=vp"),
            ("fsp", "quantizer=fsp"),
            ("fsq", "quantizer=fsq"),  # symmetric with noise, the paper's baseline
            ("vq", "quantizer=vq"),
            ("simvq", "quantizer=simvq"),
            ("tokenbridge", "quantizer=tokenbridge"),
            ("none", "quantizer=none"),
        ),
        ablations=(
            ("vp_always", "quantizer=vp,accept=always"),
            ("vp_no_norm", f"quantizer=vp,{_NO_NORM}"),
            ("vp_neighbor", "quantizer=vp,move=neighbor,eta=1.0"),
            ("vp_auto", "quantizer=vp,eta=auto"),
            ("fsp_normal", "quantizer=fsp,activation=normal"),
            ("fsp_laplace", "quantizer=fsp,activation=laplace"),
            ("fsp_paper", f"quantizer=fsp,{_PAPERS_NORM},uniformity_weight=0.0"),
            ("fsp_no_norm", f"quantizer=fsp,{_NO_NORM},uniformity_weight=0.0"),
            ("fsq_norm", f"quantizer=fsq,{_PAPERS_NORM}"),  # as fsp_paper, which it answers
            ("fsq_original", "quantizer=fsq,symmetric=False,noise_rate=0.0"),
            ("fsq_original_norm", f"quantizer=fsq,symmetric=False,noise_rate=0.0,{_PAPERS_NORM}"),
            ("vq_ema", "quantizer=vq,update=ema,restart_below=0.1"),
        ),
        curve_seeds=(0,),
        rate_methods=("vp", "fsp", "fsq", "none"),
        rate_codebook_sizes=(64,),
        refit_methods=("vp", "none"),
        refit_trained_at=(256, 1024),
        refit_codebook_sizes=(16, 64, 256, 1024, 4096),
        overrides={
            "train.num_steps": 1600,
            "codebook.max_latents": 65_536,
            "checkpoint.every": 200,
            "checkpoint.keep": 1,
            "eval.num_pictures": 2,
        },
    )
