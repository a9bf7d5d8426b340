r"""The speech experiments of arXiv 2602.17133: LibriSpeech at 166.67 tokens a second, every quantizer and K.

Prepare once, with TensorFlow and ffmpeg (pip install 'vpvae_jax[prepare]'; the training does without them):

    tfds build librispeech/lazy_decode --file_format=array_record
    tfds build common_voice/en --file_format=array_record

Tables 1, 2 and 5 of the paper, in bash:

    run() {  # RUN ARGUMENT
      python -m vpvae_jax.main --config=configs/librispeech.py:$2 --workdir=runs/librispeech/$1
      python -m vpvae_jax.main --config=configs/librispeech.py:$2 --workdir=runs/librispeech/$1 --mode=evaluate \
        --config.data.name=common_voice/en --config.data.sample_rate=48000 --config.eval.splits="('test',)"
    }
    for METHOD in vp fsp fsq simvq vq tokenbridge; do  # table 1, and 2 on Common Voice
      for K in 256 1024 4096 16384; do run $METHOD-$K quantizer=$METHOD,codebook_size=$K; done
    done
    for ACTIVATION in normal laplace; do  # table 5; tanh is fsp-1024
      run fsp-$ACTIVATION-1024 quantizer=fsp,codebook_size=1024,activation=$ACTIVATION
    done

TFDS has Common Voice 6.1, whose files are of 48 kHz and whose rate it does not state; the paper evaluates on 18.

Nothing here was run at this scale yet: that it compiles and takes a step is tested. Optimizer, schedule, batch and
losses as in the public code of the codec (arXiv 2504.04949); clipping is ours. `--config.loss.whisper_weight=0` trains
without the perceptual term where its weights cannot be had.
"""

import ml_collections
from ml_collections import config_dict

from vpvae_jax.config_arguments import quantizer_section

# Settings of the paper where the factories have others.
_PAPER = {"fsq": {"symmetric": True, "noise_rate": 0.5}}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.data = data = ml_collections.ConfigDict()
    data.source = "tfds"  # tfds | folder
    data.name = "librispeech/lazy_decode"  # tfds: data set name, or path of a prepared version directory
    data.path = ""  # folder: searched recursively for wav, flac, ogg and mp3
    data.data_dir = config_dict.placeholder(str)  # tfds: where it was prepared; default ~/tensorflow_datasets
    data.train_split = "train_clean100+train_clean360+train_other500"
    data.sample_rate = config_dict.placeholder(int)  # Hz, of tfds samples whose data set does not state it
    data.normalize = True  # each training recording to equally loud peaks; evaluations keep the level
    data.crop = 115_200  # samples, a random training crop: 7.2 s
    data.eval_crop = 0  # samples, what is evaluated of the beginning of a recording; 0 for all
    data.num_threads = 16
    data.cache_mib = 0  # MiB of decoded recordings kept in memory

    config.model = model = ml_collections.ConfigDict()
    model.name = "sqcodec"
    model.feature_dim = 128
    model.encoder_widths = (24, 48, 96, 192)
    model.encoder_strides = (6, 4, 4)  # hop 96: 166.67 tokens a second
    model.encoder_depths = (1, 1, 1, 2)
    model.encoder_attention_depth = 1
    model.decoder_widths = (512, 256, 96, 48, 24)
    model.decoder_rates = (4, 4, 3, 2)
    model.decoder_depths = (3, 3, 2, 1)
    model.decoder_attention_depth = 3
    model.attention_window = 400  # tokens; a query sees its own window and the one before
    model.num_heads = 6
    model.init_std = 0.02  # 0 for 1 / sqrt(inputs)
    model.first_bias_std = 0.02  # published 0, with which gradients at silence grow a thousandfold
    model.bottleneck_init_scale = 0.58  # deviation of PyTorch's default for a linear layer, 1 / sqrt(3 inputs)
    model.window = 115_200  # samples, of the windows in which the tokenizer goes through a recording: as in training
    model.context = 28_800  # samples, by which they overlap at both ends
    model.dtype = "float32"  # float32 | bfloat16; parameters and quantizer stay float32

    config.quantizer = quantizer_section(argument, codebook_size=16384, tuned=_PAPER)

    config.codebook = codebook = ml_collections.ConfigDict()
    codebook.source = "data"  # data: encode the training set; memory: the latents in the memory
    codebook.crop = 115_200  # samples, of the crops encoded
    codebook.max_latents = 2_097_152
    codebook.num_codes = config_dict.placeholder(int)  # vp and none: another K than the training's; default the same
    codebook.max_iterations = 100  # Lloyd

    config.loss = loss = ml_collections.ConfigDict()
    loss.l1_weight = 100.0
    loss.stft_weight = 1.0
    loss.stft_floor = 1e-8  # of a magnitude in the logarithm
    loss.whisper_weight = 1.0  # 0 trains without the term
    loss.whisper_weights = "openai/whisper-tiny.en"  # safetensors file, or openai/whisper-tiny.en

    config.train = train = ml_collections.ConfigDict()
    train.num_steps = 585_000  # 50 epochs of 281,241 utterances, 24 a step
    train.batch_size = 24
    train.accumulation_steps = (
        1  # parts of a batch, one after the other for want of memory; a batch each to the quantizer
    )
    train.shard_params = False  # True: parameters and moments are cut over the devices instead of copied (FSDP)
    train.learning_rate = 5e-4
    train.final_learning_rate = 5e-6
    train.schedule = "one_cycle"  # constant | cosine | one_cycle
    train.warmup_steps = 234_000  # 40 %
    train.adam_b1 = 0.9
    train.adam_b2 = 0.999
    train.clip_norm = 1.0  # global norm of the gradient; 0 for none
    train.ema_decay = 0.0  # 0 for off

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every = 5000  # steps
    checkpoint.keep = 2  # latest checkpoints that are kept
    checkpoint.keep_best = 0  # of the lowest training loss, kept besides

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.splits = ("test_clean", "test_other", "test_clean+test_other")
    evaluation.batch_size = 8  # windows at a time
    evaluation.num_pictures = 4  # a split, recordings written as wav files and drawn

    config.log = log = ml_collections.ConfigDict()
    log.every = 100  # steps

    config.debug = debug = ml_collections.ConfigDict()
    debug.nans = False  # True: stop at the first operation that gives NaN, slowly (jax_debug_nans)
    debug.profile_steps = 0  # from the second step on, into the work directory's profile/, for TensorBoard
    return config
