r"""The image experiments of arXiv 2602.17133: COCO 2017 at 256 x 256, f = 8, every quantizer and K.

README ("The paper's image experiments") says how to get the data and the weights of LPIPS. Tables 1 to 4, in bash:

    run() {  # RUN ARGUMENT
      python -m vpvae_jax.main --config=configs/coco.py:$2 --workdir=runs/coco/$1 \
        --config.loss.lpips_weights=lpips.safetensors
      python -m vpvae_jax.main --workdir=runs/coco/$1 --mode=evaluate --config=configs/coco.py:$2 \
        --config.eval.lpips_weights=lpips.safetensors --config.data.name=imagenet2012
    }
    for METHOD in vp fsp fsq simvq vq tokenbridge; do  # table 1, and 2 on ImageNet
      for K in 256 1024 4096 16384; do run $METHOD-$K quantizer=$METHOD,codebook_size=$K; done
    done
    run vp-no-norm-1024 quantizer=vp,codebook_size=1024,mean_weight=0.0,variance_weight=0.0  # table 3; full is vp-1024
    run vp-always-1024 quantizer=vp,codebook_size=1024,accept=always
    for ACTIVATION in normal laplace; do  # table 4; tanh is fsp-1024
      run fsp-$ACTIVATION-1024 quantizer=fsp,codebook_size=1024,activation=$ACTIVATION
    done

The same on a hundred tiles of photographs at 64 x 64, in minutes on a CPU: configs/coco.py:rehearsal=true,quantizer=vp;
`make rehearsal` runs it for three methods.

Network: 67.65 M parameters, f = 8. The paper trained 50 epochs on two cards of 24 GB and states neither its batch nor
its network beyond "VQGAN"; those here are of latent-diffusion's vq-f8. Not yet run at this scale: that it compiles and
takes a step is tested. By XLA's analysis that step, at K = 16384, in float32 and compiled for a CPU, needs 7.2, 13.4,
19.5, 22.5 and 25.6 GiB a device at 2, 4, 6, 7 and 8 images a device (results/benchmarks/memory.jsonl; `python -m
benchmarks.memory`; accelerators were not measured): on two cards of 24 GB the batch of 16 takes
--config.train.accumulation_steps=2, four images a card at a time. Expected of vp, K = 1024,
by the paper: 23.89 dB, SSIM 0.718, LPIPS 0.172, CVU 0.810.
"""

import ml_collections
from ml_collections import config_dict

from vpvae_jax.config_arguments import quantizer_section, take_switch

_NUM_IMAGES = 118_287  # COCO train2017
_EPOCHS = 50
# Settings of the paper where the factories have others.
_PAPER = {"fsq": {"symmetric": True, "noise_rate": 0.5}}
# Batches of a few hundred tokens, as in configs/photos.py.
_REHEARSAL = _PAPER | {
    "vp": {"eta": 2.0, "push_fraction": 1.0, "mean_weight": 0.04, "variance_weight": 0.028},
    "fsp": {"mean_weight": 0.03, "variance_weight": 0.02, "uniformity_weight": 0.05},
    "tokenbridge": {"kl_weight": 1e-3},
}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    is_rehearsal, argument = take_switch(argument, "rehearsal")
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.data = data = ml_collections.ConfigDict()
    data.source = "tfds"  # tfds | folder
    data.name = "coco/2017"  # tfds: data set name, or path of a prepared version directory
    data.path = ""  # folder: searched recursively for jpg, png and webp
    data.data_dir = config_dict.placeholder(str)  # tfds: where it was prepared; default ~/tensorflow_datasets
    data.train_split = "train"
    data.resize = 256  # pixels, short side before cropping
    data.crop = 256  # pixels, side of the crop
    data.eval_crop = 256  # pixels, side of the central crop that is evaluated
    data.random_crop = False  # the centre, as the paper
    data.flip = False  # the paper names no augmentation
    data.num_threads = 16
    data.cache_mib = 0  # MiB of decoded images kept in memory

    config.model = model = ml_collections.ConfigDict()
    model.name = "vqgan"
    model.channels = 128  # latent-diffusion, vq-f8, as all of the network
    model.channel_multipliers = (1, 2, 2, 4)  # f = 8
    model.num_res_blocks = 2
    model.attention_levels = (3,)  # 32 x 32
    model.middle_attention = True
    model.norm = "group"
    model.z_channels = 4
    model.dtype = "float32"  # float32 | bfloat16; parameters and quantizer stay float32
    model.remat = False  # True: blocks and LPIPS are computed again in the backward pass, for less memory

    tuned = _REHEARSAL if is_rehearsal else _PAPER
    config.quantizer = quantizer_section(argument, codebook_size=256 if is_rehearsal else 1024, tuned=tuned)

    config.codebook = codebook = ml_collections.ConfigDict()
    codebook.source = "data"  # data: encode the training set; memory: the latents in the memory
    codebook.crop = 256  # pixels
    codebook.max_latents = 2_097_152  # of 2048 images; 128 a code at the largest K
    codebook.num_codes = config_dict.placeholder(int)  # vp and none: another K than the training's; default the same
    codebook.max_iterations = 100  # Lloyd

    config.loss = loss = ml_collections.ConfigDict()
    loss.l1_weight = 1.0
    loss.lpips_weight = 1.0
    loss.lpips_weights = "lpips.safetensors"  # what `python -m vpvae_jax.models.lpips convert` writes

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 16  # of all devices; the paper does not say
    train.accumulation_steps = (
        1  # parts of a batch, one after the other for want of memory; a batch each to the quantizer
    )
    train.shard_params = False  # True: parameters and moments are cut over the devices instead of copied (FSDP)
    train.num_steps = _EPOCHS * _NUM_IMAGES // train.get_ref("batch_size")  # 369,646
    train.learning_rate = 4.5e-6 * train.get_ref("batch_size").to_float()  # taming-transformers
    train.final_learning_rate = 0.0  # not used: the rate is constant
    train.schedule = "constant"  # constant | cosine, after the warm-up | one_cycle
    train.warmup_steps = 0
    train.adam_b1 = 0.5
    train.adam_b2 = 0.9
    train.clip_norm = 0.0  # global norm of the gradient; 0 for none
    train.ema_decay = 0.0  # 0 for off

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every = 5000  # steps
    checkpoint.keep = 2  # latest checkpoints that are kept
    checkpoint.keep_best = 0  # of the lowest training loss, kept besides

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.splits = ("validation",)
    evaluation.batch_size = 8
    evaluation.num_pictures = 8  # a split, columns of reconstructions.png
    evaluation.lpips_weights = loss.get_ref("lpips_weights").identity()  # empty for no LPIPS
    evaluation.inception_weights = (
        ""  # file that `python -m vpvae_jax.models.inception convert` writes; empty for no rFID
    )

    config.log = log = ml_collections.ConfigDict()
    log.every = 100  # steps

    config.debug = debug = ml_collections.ConfigDict()
    debug.nans = False  # True: stop at the first operation that gives NaN, slowly (jax_debug_nans)
    debug.profile_steps = 0  # from the second step on, into the work directory's profile/, for TensorBoard

    if is_rehearsal:
        _rehearse(config)
    return config


def _rehearse(config: ml_collections.ConfigDict) -> None:
    """Small enough for two cores; data, network and schedule alone differ, and what follows from them."""
    config.data.name = "photo_tiles"
    for key in ("resize", "crop", "eval_crop"):
        config.data[key] = 64
    config.data.num_threads = 2
    config.data.cache_mib = 64
    config.data.flip = True  # of so few images
    config.model.channels = 32
    config.model.channel_multipliers = (1, 1, 2, 2)
    config.model.num_res_blocks = 1
    config.model.attention_levels = ()
    config.model.z_channels = 16
    config.codebook.crop = 64
    config.codebook.max_latents = 65_536
    config.train.num_steps = 250
    config.train.batch_size = 8
    config.train.learning_rate = 1e-3
    config.train.schedule = "cosine"
    config.train.warmup_steps = 20
    config.train.final_learning_rate = 1e-4
    config.train.clip_norm = 1.0
    config.checkpoint.every = 100
    config.log.every = 10
