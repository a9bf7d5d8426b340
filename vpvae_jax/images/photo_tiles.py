"""`photo_tiles`: the photographs of `photos` cut into about a hundred small ones, in the layout of TFDS' coco/2017.

For rehearsing a run on COCO without COCO: JPEG files of several shapes, the same features and split names. `train` and
`validation` are cut from the same photographs, `test` from others; see `photos`.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from vpvae_jax.images import photos

TILE = 96  # pixels, short side
_LONG_SIDES = (96, 128, 144)  # in turn, each as width and as height
_JPEG_QUALITY = 95


class PhotoTiles(tfds.core.GeneratorBasedBuilder):
    """Tiles of the photographs in the scikit-image wheel, with the features of coco/2017."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        box = {
            "area": np.int64,
            "bbox": tfds.features.BBoxFeature(),
            "id": np.int64,
            "is_crowd": np.bool_,
            "label": tfds.features.ClassLabel(num_classes=80),
        }
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(box),
        }
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
        for number, tile in enumerate(_tiles(split)):
            name = f"{number:012}.jpg"
            yield name, {"image": _jpeg(tile), "image/filename": name, "image/id": number, "objects": []}


def _tiles(split: str) -> Iterator[PIL.Image.Image]:
    """Side by side from the upper left of each region; remainders at the right and below are dropped."""
    shapes = itertools.cycle([shape for side in _LONG_SIDES for shape in ((side, TILE), (TILE, side))])
    for _, region in photos.regions(split):
        upper = 0
        while upper + TILE <= region.height:
            left, row = 0, max(_LONG_SIDES) if upper + max(_LONG_SIDES) <= region.height else TILE
            while left + TILE <= region.width:
                width, height = next(shapes)
                tile = region.crop((left, upper, min(left + width, region.width), min(upper + height, upper + row)))
                yield tile
                left += tile.width
            upper += row


def _jpeg(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="jpeg", quality=_JPEG_QUALITY)
    return buffer.getvalue()
