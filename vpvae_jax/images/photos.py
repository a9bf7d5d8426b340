"""`photos`: a TFDS data set of the photographs in the scikit-image wheel, so that nothing is downloaded.

Splits:
    train: photographs without their bottom right 256 x 256 corner, as rectangles to its left and above it.
    validation: those corners: regions of the training photographs that are not trained on.
    test: whole photographs; no region of them is in another split.
"""

from __future__ import annotations

import importlib.resources
import io
from collections.abc import Iterator

import PIL.Image
import tensorflow_datasets as tfds

VALIDATION_SIZE = 256  # pixels, side of a validation image
MIN_TRAIN_SIDE = 128  # pixels; narrower rectangles are dropped

TRAIN_PHOTOS = (
    "astronaut.png",
    "brick.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "motorcycle_left.png",
)
TEST_PHOTOS = ("camera.png", "chelsea.png")  # a man, a cat


class Photos(tfds.core.GeneratorBasedBuilder):
    """Photographs of the scikit-image wheel, split by region and by photograph."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(encoding_format="png"), "name": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            homepage="https://scikit-image.org",
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(split) for split in ("train", "validation", "test")}

    def _generate_examples(self, split: str):
        for name, region in regions(split):
            yield name, {"image": _png(region), "name": name}


def regions(split: str) -> Iterator[tuple[str, PIL.Image.Image]]:
    """Names and pixels of a split's images."""
    for name in TEST_PHOTOS if split == "test" else TRAIN_PHOTOS:
        photo = _open_photo(name)
        for part, box in _boxes(split, *photo.size):
            yield f"{name.partition('.')[0]}-{part}", photo.crop(box)


def _boxes(split: str, width: int, height: int) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """(name, (left, upper, right, lower)) of the regions that a photograph gives to a split."""
    right, lower = width - VALIDATION_SIZE, height - VALIDATION_SIZE
    if split == "test":
        yield "whole", (0, 0, width, height)
    elif split == "validation":
        yield "corner", (right, lower, width, height)
    else:
        if right >= MIN_TRAIN_SIDE:
            yield "left", (0, 0, right, height)
        if lower >= MIN_TRAIN_SIDE:
            yield "above", (right, 0, width, lower)


def _open_photo(name: str) -> PIL.Image.Image:
    file = importlib.resources.files("skimage") / "data" / name
    return PIL.Image.open(io.BytesIO(file.read_bytes())).convert("RGB")


def _png(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()
