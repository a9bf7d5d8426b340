"""VP-VAE on the photographs of the scikit-image wheel: small enough for a laptop without a GPU.

python -m vpvae_jax.main --config=configs/photos.py --workdir=DIR

About 4 minutes, without installation, on 2 cores of an AMD EPYC. Expected: photos-test 29.1 dB, CVU 0.29;
photos-validation 27.8 dB, CVU 0.65. Settings without a source were found by trial on these photographs.
"""

import ml_collections
from ml_collections import config_dict

from vpvae_jax.config_arguments import quantizer_section

# Measured here; the other settings are the factories' defaults and paper.py's levels.
_TUNED = {
    "vp": {
        "eta": 2.0,  # authors' code: 1.0
        "push_fraction": 1.0,  # authors' code: 0.01, which takes batches this small too long to renew the memory
        "mean_weight": 0.04,  # less than the authors': the moments of a batch this small must be free to differ
        "variance_weight": 0.028,  # likewise
    },
    "fsp": {
        "mean_weight": 0.03,  # less than the authors', as for vp
        "variance_weight": 0.02,  # likewise
        "uniformity_weight": 0.05,  # ours
    },
    "fsq": {"symmetric": True, "noise_rate": 0.5},  # the paper's baseline; the factory's default is FSQ as published
    "tokenbridge": {"kl_weight": 1e-3},  # the factory's 1e-6 leaves the latents far from N(0, 1), whose bins are used
}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.data = data = ml_collections.ConfigDict()
    data.source = "tfds"  # tfds | folder
    data.name = "photos"  # tfds: data set name, or path of a prepared version directory
    data.path = ""  # folder: searched recursively for jpg, png and webp
    data.data_dir = config_dict.placeholder(str)  # tfds: default ~/tensorflow_datasets
    data.train_split = "train"
    data.resize = 0  # pixels, short side before cropping; 0 leaves images as they are
    data.crop = 32  # pixels, side of a random training crop
    data.eval_crop = 0  # pixels, side of the central crop that is evaluated; 0 for whole images
    data.random_crop = True  # False: the centre, as the paper crops COCO
    data.flip = True  # every second crop mirrored
    data.num_threads = 2
    data.cache_mib = 512  # MiB of decoded images kept in memory

    config.model = model = ml_collections.ConfigDict()
    model.name = "vqgan"
    model.channels = 16
    model.channel_multipliers = (1, 2, 4)  # f = 4
    model.num_res_blocks = 1
    model.attention_levels = ()
    model.middle_attention = False  # trained on 8 x 8 tokens, used on 64 x 64
    model.norm = "layer"  # group (as published) | layer (indifferent to the size of the crop)
    model.z_channels = 16
    model.dtype = "float32"  # float32 | bfloat16; parameters and quantizer stay float32
    model.remat = False  # True: blocks and LPIPS are computed again in the backward pass, for less memory

    config.quantizer = quantizer_section(argument, codebook_size=256, tuned=_TUNED)

    config.codebook = codebook = ml_collections.ConfigDict()
    codebook.source = "data"  # data: encode the training set; memory: the latents in the memory
    codebook.crop = 128  # pixels, side of the crops encoded: large, as borders make latents of their own
    codebook.max_latents = 131_072
    codebook.num_codes = config_dict.placeholder(int)  # vp and none: another K than the training's; default the same
    codebook.max_iterations = 100  # Lloyd

    config.loss = loss = ml_collections.ConfigDict()
    loss.l1_weight = 1.0
    loss.lpips_weight = 0.0
    loss.lpips_weights = ""  # file that `python -m vpvae_jax.models.lpips convert` writes

    config.train = train = ml_collections.ConfigDict()
    train.num_steps = 3600
    train.batch_size = 8
    train.accumulation_steps = (
        1  # parts of a batch, one after the other for want of memory; a batch each to the quantizer
    )
    train.shard_params = False  # True: parameters and moments are cut over the devices instead of copied (FSDP)
    train.learning_rate = 2e-3
    train.final_learning_rate = 1e-4  # end of the cosine
    train.schedule = "cosine"  # constant | cosine, after the warm-up | one_cycle
    train.warmup_steps = 50
    train.adam_b1 = 0.9
    train.adam_b2 = 0.95
    train.clip_norm = 1.0  # global norm of the gradient; 0 for none
    train.ema_decay = 0.0  # 0 for off

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every = 400  # steps
    checkpoint.keep = 2  # latest checkpoints that are kept
    checkpoint.keep_best = 0  # of the lowest training loss, kept besides

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.splits = ("validation", "test")
    evaluation.batch_size = 1  # more need images of one size
    evaluation.num_pictures = 6  # a split, columns of reconstructions.png
    evaluation.lpips_weights = ""  # as loss.lpips_weights; empty for no LPIPS
    evaluation.inception_weights = (
        ""  # file that `python -m vpvae_jax.models.inception convert` writes; empty for no rFID
    )

    config.log = log = ml_collections.ConfigDict()
    log.every = 10  # steps

    config.debug = debug = ml_collections.ConfigDict()
    debug.nans = False  # True: stop at the first operation that gives NaN, slowly (jax_debug_nans)
    debug.profile_steps = 0  # from the second step on, into the work directory's profile/, for TensorBoard
    return config
