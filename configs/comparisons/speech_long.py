"""VP and FSP on the speech of configs/speech.py for 10,000 steps, scored every 1,000: hours on two CPU cores.

python -m vpvae_jax.main --mode=compare --comparison=configs/comparisons/speech_long.py \
    --results=results/speech/longer --workdir=runs/speech_long --jobs=2

results/speech/long was made before VP's latents started near 0: for the same, add
--comparison.method_overrides="{'vp': {'model.bottleneck_init_scale': 1.0}}"
"""

from vpvae_jax.compare.settings import Comparison


def get_config() -> Comparison:
    return Comparison(
        config="speech",
        codebook_sizes=(1024,),
        methods=(("vp", "quantizer=vp"), ("fsp", "quantizer=fsp")),
        curve_seeds=(0,),
        curve_split="test",
        overrides={"train.num_steps": 10_000, "checkpoint.every": 1000, "checkpoint.keep": 1},
        method_overrides={"vp": {"model.bottleneck_init_scale": 0.1}},
    )
