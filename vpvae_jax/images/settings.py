"""Settings of everything that is particular to images."""

# Types of fields are read at run time: no postponed annotations here.
import dataclasses

from vpvae_jax.modality import Data, Eval
from vpvae_jax.runtime.settings import NOT_NEGATIVE, POSITIVE, setting

_LDM = "latent-diffusion, vq-f8"
_LPIPS_FILE = "safetensors file that `--mode=convert --network=lpips` writes"


@dataclasses.dataclass(slots=True)
class ImageData(Data):
    """Images and how they are cropped."""

    resize: int = setting(
        256,
        "Short side before cropping; 0 leaves images as they are.",
        bound=NOT_NEGATIVE,
        unit="pixels",
        affects="reading",
    )
    crop: int = setting(256, "Side of a training crop.", bound=POSITIVE, unit="pixels")
    eval_crop: int = setting(
        256,
        "Side of the central crop that is evaluated; 0 for whole images.",
        bound=NOT_NEGATIVE,
        unit="pixels",
        affects="metrics",
    )
    random_crop: bool = setting(False, "Crop at a random place; False: at the centre.", source="arXiv 2602.17133")
    flip: bool = setting(False, "Mirror every second training image, at random.", source="arXiv 2602.17133 names none")


@dataclasses.dataclass(slots=True)
class VQGAN:
    """The network for images; f = 2^(number of multipliers - 1)."""

    name: str = setting("vqgan", "Network; chooses the modality.", choices=("vqgan",))
    channels: int = setting(128, "Channels at full resolution.", bound=POSITIVE, source=_LDM)
    channel_multipliers: tuple[int, ...] = setting((1, 2, 2, 4), "Channels of each level, as multiples.", source=_LDM)
    num_res_blocks: int = setting(
        2, "Residual blocks of a level; the decoder has one more.", bound=POSITIVE, source=_LDM
    )
    attention_levels: tuple[int, ...] = setting((3,), "Levels with attention, 0 for full resolution.", source=_LDM)
    middle_attention: bool = setting(True, "Attention between the innermost blocks.", source=_LDM)
    norm: str = setting("group", "Normalization of the blocks.", choices=("group", "layer"), source=_LDM)
    z_channels: int = setting(4, "Channels of the encoder's output.", bound=POSITIVE, source=_LDM)
    dtype: str = setting(
        "float32", "Compute type; parameters and quantizer stay float32.", choices=("float32", "bfloat16")
    )
    window: int = setting(
        1024,
        "Largest side that a tokenizer computes at a time, which bounds its memory; larger images go through in "
        "overlapping windows. With attention or norm=group images are whole.",
        bound=POSITIVE,
        unit="pixels",
        affects="nothing",
    )
    remat: bool = setting(
        False, "Compute blocks and LPIPS again in the backward pass, for less memory.", affects="nothing"
    )


@dataclasses.dataclass(slots=True)
class ImageLoss:
    """The reconstruction loss of images."""

    l1_weight: float = setting(1.0, "Weight of the mean absolute error.", bound=NOT_NEGATIVE)
    lpips_weight: float = setting(1.0, "Weight of LPIPS; 0 trains without it.", bound=NOT_NEGATIVE)
    lpips_weights: str = setting("", f"Weights of LPIPS: {_LPIPS_FILE}.", affects="nothing")


@dataclasses.dataclass(slots=True)
class ImageEval(Eval):
    """How reconstructed images are scored."""

    lpips_weights: str | None = setting(
        None, "Weights of LPIPS, as loss.lpips_weights, which is the default; empty for no LPIPS.", affects="metrics"
    )
    inception_weights: str = setting(
        "",
        "Weights for rFID: file that `--mode=convert --network=inception` writes; empty for no rFID.",
        affects="metrics",
    )
