"""Settings of everything that is particular to speech; the defaults are the published experiment on LibriSpeech."""

# Types of fields are read at run time: no postponed annotations here.
import dataclasses

from vpvae_jax.modality import Data, Eval
from vpvae_jax.runtime.settings import NOT_NEGATIVE, POSITIVE, Bound, setting
from vpvae_jax.speech.metrics import METRICS

_PAPER = "arXiv 2602.17133"
_CODEC = "public code of arXiv 2504.04949"
_CROP = 115_200  # samples, 7.2 s


@dataclasses.dataclass(slots=True)
class SpeechData(Data):
    """Recordings and how they are cropped."""

    name: str = setting(
        "librispeech/lazy_decode",
        "With tfds: data set name, or path of a prepared version directory.",
        source=_PAPER,
        affects="source",
    )
    path: str = setting(
        "", "With folder: the folder, searched recursively for wav, flac, ogg and mp3 files.", affects="source"
    )
    train_split: str = setting(
        "train_clean100+train_clean360+train_other500",
        "Split to train on; TFDS slices and sums are allowed.",
        source=_PAPER,
        affects="source",
    )
    sample_rate: int | None = setting(
        None,
        "With tfds: sample rate of integer samples if the data set does not state it.",
        bound=Bound("a positive number of Hz", 0, is_low_in=False),
        unit="Hz",
        affects="reading",
    )
    normalize: bool = setting(
        True, "Scale each training recording so that its peaks are equally loud; evaluations keep the level."
    )
    crop: int = setting(
        _CROP, "Length of a training crop, taken at a random place.", bound=POSITIVE, unit="samples", source=_CODEC
    )
    eval_crop: int = setting(
        0,
        "What is evaluated of the beginning of a recording; 0 for all of it.",
        bound=NOT_NEGATIVE,
        unit="samples",
        affects="metrics",
    )


@dataclasses.dataclass(slots=True)
class SQCodec:
    """The network for speech; its hop is the product of the strides."""

    name: str = setting("sqcodec", "Network; chooses the modality.", choices=("sqcodec",))
    feature_dim: int = setting(
        128, "Width of the features between network and bottleneck.", bound=POSITIVE, source=_CODEC
    )
    encoder_widths: tuple[int, ...] = setting((24, 48, 96, 192), "Channels of each encoder stage.", source=_CODEC)
    encoder_strides: tuple[int, ...] = setting(
        (6, 4, 4), "Strides between encoder stages; hop 96 gives 166.67 tokens a second.", source=_CODEC
    )
    encoder_depths: tuple[int, ...] = setting((1, 1, 1, 2), "Units of each encoder stage.", source=_CODEC)
    encoder_attention_depth: int = setting(
        1, "Transformer blocks of the encoder; 0 for none.", bound=NOT_NEGATIVE, source=_CODEC
    )
    decoder_widths: tuple[int, ...] = setting((512, 256, 96, 48, 24), "Channels of each decoder stage.", source=_CODEC)
    decoder_rates: tuple[int, ...] = setting((4, 4, 3, 2), "Upsampling between decoder stages.", source=_CODEC)
    decoder_depths: tuple[int, ...] = setting((3, 3, 2, 1), "Units of each decoder stage but the last.", source=_CODEC)
    decoder_attention_depth: int = setting(
        3, "Transformer blocks of the decoder; 0 for none.", bound=NOT_NEGATIVE, source=_CODEC
    )
    attention_window: int = setting(
        400,
        "A query attends to its own window and the one before.",
        bound=POSITIVE,
        unit="tokens",
        source=_CODEC,
    )
    num_heads: int = setting(6, "Attention heads, each a quarter of feature_dim wide.", bound=POSITIVE, source=_CODEC)
    init_std: float = setting(
        0.02,
        "Standard deviation of the initial weights; 0 for 1 / sqrt(inputs), which narrow networks need.",
        bound=NOT_NEGATIVE,
        source=_CODEC,
    )
    first_bias_std: float = setting(
        0.02,
        "Standard deviation of the first layer's initial biases; with the published 0, gradients at silence grow "
        "a thousandfold.",
        bound=NOT_NEGATIVE,
        source="ours",
    )
    bottleneck_init_scale: float = setting(
        0.58,
        "Scale of the initial weights of the bottleneck, relative to LeCun's.",
        bound=POSITIVE,
        source="PyTorch's default for a linear layer, 1 / sqrt(3 inputs)",
    )
    window: int = setting(
        _CROP,
        "Window in which the tokenizer reads a recording; best as long as a training crop.",
        bound=POSITIVE,
        unit="samples",
        source="ours",
    )
    context: int = setting(
        28_800, "Overlap of windows at both ends.", bound=NOT_NEGATIVE, unit="samples", source="ours"
    )
    dtype: str = setting(
        "float32", "Compute type; parameters and quantizer stay float32.", choices=("float32", "bfloat16")
    )


@dataclasses.dataclass(slots=True)
class SpeechLoss:
    """The reconstruction loss of speech."""

    l1_weight: float = setting(100.0, "Weight of the mean absolute error.", bound=NOT_NEGATIVE, source=_CODEC)
    stft_weight: float = setting(1.0, "Weight of the multi-scale STFT loss.", bound=NOT_NEGATIVE, source=_CODEC)
    stft_floor: float = setting(1e-8, "Smallest magnitude in its logarithm.", bound=POSITIVE, source=_CODEC)
    whisper_weight: float = setting(
        1.0, "Weight of Whisper's features; 0 trains without them.", bound=NOT_NEGATIVE, source=_PAPER
    )
    whisper_weights: str = setting(
        "",
        "Weights of Whisper: a safetensors file, or openai/whisper-tiny.en.",
        affects="nothing",
    )


@dataclasses.dataclass(slots=True)
class SpeechEval(Eval):
    """How reconstructed speech is scored."""

    splits: tuple[str, ...] = setting(
        ("test_clean", "test_other", "test_clean+test_other"),
        "Splits that are evaluated.",
        source=_PAPER,
        affects="metrics",
    )
    batch_size: int = setting(8, "Windows at a time.", bound=POSITIVE, affects="nothing")
    num_pictures: int = setting(
        4,
        "Recordings of a split that are written as wav files and drawn as spectrograms.",
        bound=NOT_NEGATIVE,
        affects="nothing",
    )
    metrics: tuple[str, ...] = setting(
        tuple(metric.key for metric in METRICS),
        "Metrics that are computed; pesq_wb needs the package pesq.",
        affects="metrics",
    )
