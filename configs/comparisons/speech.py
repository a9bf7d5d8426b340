"""Every method on the speech of configs/speech.py: table, CVU curves.

python -m vpvae_jax.main --mode=compare --comparison=configs/comparisons/speech.py \
    --results=results/speech/comparison --workdir=runs/comparison_speech --jobs=2
"""

from vpvae_jax.compare.settings import Comparison

# No L_norm keeps the latents of these in place: at the rate of configs/speech.py FSQ's and VQ's went to a few codes,
# SimVQ's in one trial of two. They get the published rate.
_SLOW = ("fsq", "vq", "simvq", "vp_slow", "fsp_slow", "vq_ema", "vq_restart")
_PUBLISHED_RATE = {"train.learning_rate": 5e-4, "train.warmup_steps": 100}


def get_config() -> Comparison:
    return Comparison(
        config="speech",
        seeds=(0, 1),
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
            ("fsq_fast", "quantizer=fsq"),  # at the rate of VP and FSP
            ("vq_fast", "quantizer=vq"),
            ("simvq_fast", "quantizer=simvq"),
            ("vp_slow", "quantizer=vp"),  # and the other way round
            ("fsp_slow", "quantizer=fsp"),
            # At that rate, with L_norm of VP.
            ("fsq_norm", "quantizer=fsq,latent_norm.mean_weight=1.0,latent_norm.variance_weight=0.7"),
            ("fsp_near_0", "quantizer=fsp"),  # starts as the others do
            ("fsp_plain", "quantizer=fsp,uniformity_weight=0.0"),  # without our term, as in the paper
            ("vp_no_norm", "quantizer=vp,latent_norm.mean_weight=0.0,latent_norm.variance_weight=0.0"),
            ("vq_ema", "quantizer=vq,update=ema"),  # the known remedies
            ("vq_restart", "quantizer=vq,update=ema,restart_below=0.1"),
        ),
        curve_seeds=(0,),
        overrides={
            "train.num_steps": 600,
            "codebook.max_latents": 32_768,
            "checkpoint.every": 100,
            "checkpoint.keep": 1,
            "eval.num_pictures": 0,
        },
        method_overrides={
            **dict.fromkeys(_SLOW, _PUBLISHED_RATE),
            "fsp_near_0": {"model.bottleneck_init_scale": 0.1},
        },
    )
