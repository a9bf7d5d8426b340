r"""The speech experiments of arXiv 2602.17133: LibriSpeech at 166.67 tokens a second, every quantizer and K.

Prepare once, with TensorFlow and ffmpeg (pip install 'vpvae_jax[prepare]'; the training does without them):

    tfds build librispeech/lazy_decode --file_format=array_record
    tfds build common_voice/en --file_format=array_record

Tables 1, 2 and 5 of the paper, in bash:

    run() {  # RUN ARGUMENT
      python -m vpvae_jax.main --config=librispeech:$2 --workdir=runs/librispeech/$1
      python -m vpvae_jax.main --workdir=runs/librispeech/$1 --mode=evaluate \
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

from vpvae_jax.config.files import speech_config
from vpvae_jax.config.schema import Config

# Settings of the paper where the factories have others.
_PAPER = {"fsq": {"symmetric": True, "noise_rate": 0.5}}
_VALUES = {
    "data.name": "librispeech/lazy_decode",
    "data.train_split": "train_clean100+train_clean360+train_other500",
    "codebook.crop": 115_200,
    "loss.whisper_weights": "openai/whisper-tiny.en",
    "train.num_steps": 585_000,  # 50 epochs of 281,241 utterances, 24 a step
    "train.batch_size": 24,
    "train.learning_rate": 5e-4,
    "train.final_learning_rate": 5e-6,
    "train.schedule": "one_cycle",
    "train.warmup_steps": 234_000,  # 40 %
    "train.clip_norm": 1.0,
    "eval.splits": ("test_clean", "test_other", "test_clean+test_other"),
    "eval.num_pictures": 4,
}


def get_config(argument: str = "") -> Config:
    return speech_config(argument, codebook_size=16384, tuned=_PAPER, values=_VALUES)
