r"""The image experiments of arXiv 2602.17133: COCO 2017 at 256 x 256, f = 8, every quantizer and K.

docs/paper.md says how to get the data and the weights of LPIPS. Tables 1 to 4, in bash:

    run() {  # RUN ARGUMENT
      python -m vpvae_jax.main --config=coco:$2 --workdir=runs/coco/$1 \
        --config.loss.lpips_weights=lpips.safetensors
      python -m vpvae_jax.main --workdir=runs/coco/$1 --mode=evaluate --config.data.name=imagenet2012
    }
    for METHOD in vp fsp fsq simvq vq tokenbridge; do  # table 1, and 2 on ImageNet
      for K in 256 1024 4096 16384; do run $METHOD-$K quantizer=$METHOD,codebook_size=$K; done
    done
    NO_NORM=latent_norm.mean_weight=0,latent_norm.variance_weight=0
    run vp-no-norm-1024 quantizer=vp,codebook_size=1024,$NO_NORM  # table 3; full is vp-1024
    run vp-always-1024 quantizer=vp,codebook_size=1024,accept=always
    for ACTIVATION in normal laplace; do  # table 4; tanh is fsp-1024
      run fsp-$ACTIVATION-1024 quantizer=fsp,codebook_size=1024,activation=$ACTIVATION
    done

The same on a hundred tiles of photographs at 64 x 64, in minutes on a CPU: coco:rehearsal=true,quantizer=vp;
`make rehearsal` runs it for three methods.

Network: 67.65 M parameters, f = 8. The paper trained 50 epochs on two cards of 24 GB and states neither its batch nor
its network beyond "VQGAN"; those here are of latent-diffusion's vq-f8. Not yet run at this scale: that it compiles and
takes a step is tested. By XLA's analysis that step, at K = 16384, in float32 and compiled for a CPU, needs 7.2, 13.4,
19.5, 22.5 and 25.6 GiB a device at 2, 4, 6, 7 and 8 images a device (results/benchmarks/memory.jsonl; `python -m
benchmarks.memory`; accelerators were not measured): on two cards of 24 GB the batch of 16 takes
--config.train.accumulation_steps=2, four images a card at a time. Expected of vp, K = 1024,
by the paper: 23.89 dB, SSIM 0.718, LPIPS 0.172, CVU 0.810.
"""

from vpvae_jax.config.files import image_config, with_values
from vpvae_jax.config.quantizer_section import take, take_switch
from vpvae_jax.config.schema import Config
from vpvae_jax.runtime.errors import ConfigError

_NUM_IMAGES = 118_287  # COCO train2017
_EPOCHS = 50
_BATCH_SIZE = 16  # of all devices; the paper does not say
_RATE_OF_AN_IMAGE = 4.5e-6  # taming-transformers: the learning rate is that times the batch
# Settings of the paper where the factories have others.
_PAPER = {"fsq": {"symmetric": True, "noise_rate": 0.5}}
_VALUES = {
    "data.name": "coco/2017",
    "codebook.max_latents": 2_097_152,  # of 2048 images; 128 a code at the largest K
    "loss.lpips_weights": "lpips.safetensors",
    "train.adam_b1": 0.5,
    "train.adam_b2": 0.9,
}
# Batches of a few hundred tokens, as in configs/photos.py.
_TUNED_REHEARSAL = _PAPER | {
    "vp": {
        "eta": 2.0,
        "push_fraction": 1.0,
        "latent_norm.mean_weight": 0.04,
        "latent_norm.variance_weight": 0.028,
    },
    "fsp": {"latent_norm.mean_weight": 0.03, "latent_norm.variance_weight": 0.02, "uniformity_weight": 0.05},
    "tokenbridge": {"kl_weight": 1e-3},
}
# Small enough for two cores; data, network and schedule differ, and what follows from them.
_REHEARSAL = {
    "data.name": "photo_tiles",
    "data.resize": 64,
    "data.crop": 64,
    "data.eval_crop": 64,
    "data.num_threads": 2,
    "data.cache_mib": 64,
    "data.flip": True,  # of so few images
    "model.channels": 32,
    "model.channel_multipliers": (1, 1, 2, 2),
    "model.num_res_blocks": 1,
    "model.attention_levels": (),
    "model.z_channels": 16,
    "codebook.crop": 64,
    "codebook.max_latents": 65_536,
    "train.num_steps": 250,
    "train.batch_size": 8,
    "train.learning_rate": 1e-3,
    "train.schedule": "cosine",
    "train.warmup_steps": 20,
    "train.final_learning_rate": 1e-4,
    "train.clip_norm": 1.0,
    "checkpoint.every": 100,
    "log.every": 10,
}


def get_config(argument: str = "") -> Config:
    """The experiment at full size, or `rehearsal=true`; `batch_size=N` sets the steps and the rate of that batch."""
    is_rehearsal, argument = take_switch(argument, "rehearsal")
    batch, argument = take(argument, "batch_size")
    batch_size = _batch_size(batch)
    scale = {
        "train.batch_size": batch_size,
        "train.num_steps": _EPOCHS * _NUM_IMAGES // batch_size,  # 369,646 of 16 images
        "train.learning_rate": _RATE_OF_AN_IMAGE * batch_size,
    }
    config = image_config(
        argument,
        codebook_size=256 if is_rehearsal else 1024,
        tuned=_TUNED_REHEARSAL if is_rehearsal else _PAPER,
        values=_VALUES | scale,
    )
    return with_values(config, _REHEARSAL) if is_rehearsal else config


def _batch_size(text: str | None) -> int:
    if text is not None and (not text.isdigit() or int(text) < 1):
        raise ConfigError(f"batch_size={text} behind the config file: expected a positive whole number")
    return _BATCH_SIZE if text is None else int(text)
