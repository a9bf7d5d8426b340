"""What differs between images and audio, behind one protocol; everything else is written once."""

from vpvae_jax.modalities.audio import AUDIO
from vpvae_jax.modalities.base import Examples, Loss, Modality
from vpvae_jax.modalities.images import IMAGES

MODALITIES = {"vqgan": IMAGES, "sqcodec": AUDIO}
"""By the name of the network."""

__all__ = ["AUDIO", "IMAGES", "MODALITIES", "Examples", "Loss", "Modality"]
