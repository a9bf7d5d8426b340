"""VP against the plain autoencoder with a longer training, at the larger codebook of configs/comparisons/photos.py.

python -m vpvae_jax.main --mode=compare --comparison=configs/comparisons/photos_long.py \
    --results=results/photos/long --workdir=runs/long --jobs=2
"""

from vpvae_jax.compare.settings import Comparison


def get_config() -> Comparison:
    return Comparison(
        config="photos",
        seeds=(0, 1, 2),
        codebook_sizes=(1024,),
        methods=(("vp", "quantizer=vp"), ("none", "quantizer=none")),
        overrides={"train.num_steps": 2400, "codebook.max_latents": 65_536, "eval.num_pictures": 2},
    )
