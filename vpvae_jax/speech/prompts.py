"""`speech`: a TFDS data set of the recordings beside this file, so that nothing is downloaded.

Spoken prompts of a telephone exchange, one voice, English, 16 kHz. Minutes and prompts: train 2.56 (19), validation
0.29 (4), test 0.45 (5). A prompt is in one split, with all that say nearly the same. `speech_flac/README.md` names the
holder, the licence (CC-BY-SA-3.0) and what was changed.
"""

from __future__ import annotations

import importlib.resources
from importlib.resources.abc import Traversable

import numpy as np
import tensorflow_datasets as tfds

SPLITS = ("train", "validation", "test")


class Speech(tfds.core.GeneratorBasedBuilder):
    """Recorded prompts as FLAC files, split by prompt.

    `tfds.features.Audio` needs TensorFlow, so the files are stored as they are, as a string of bytes.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"speech": tfds.features.Tensor(shape=(), dtype=np.bytes_), "name": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            homepage="http://www.theivrvoice.com",
            license="CC-BY-SA-3.0",
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str):
        for file in recordings(split):
            name = file.name.removesuffix(".flac")
            yield name, {"speech": file.read_bytes(), "name": name}


def recordings(split: str) -> list[Traversable]:
    """The FLAC files of a split (`train`, `validation`, `test`) in the order of their names."""
    folder = importlib.resources.files("vpvae_jax.speech") / "speech_flac" / split
    return sorted((file for file in folder.iterdir() if file.name.endswith(".flac")), key=lambda file: file.name)
