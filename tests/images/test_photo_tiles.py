import io
import json

import numpy as np
import PIL.Image
import pytest

from vpvae_jax.data.prepared import image_source, prepared_directory
from vpvae_jax.images import photo_tiles, photos

OWN = {"photo_tiles": ("vpvae_jax.images.photo_tiles", "PhotoTiles")}


def tfds_source(split, data_dir):
    return image_source("photo_tiles", split, data_dir, OWN)


@pytest.mark.parametrize(("split", "num"), [("train", 68), ("validation", 28), ("test", 21)])
def test_every_tile_decodes(data_dir, split, num):
    source = tfds_source(split, str(data_dir))
    assert len(source) == num
    shapes = set()
    for i in range(num):
        record = source[i]
        with PIL.Image.open(io.BytesIO(record.encoded)) as image:
            image.load()
            assert (image.format, image.mode, min(image.size)) == ("JPEG", "RGB", photo_tiles.TILE)
            shapes.add(image.size)
    assert len({source[i].name for i in range(num)}) == num
    assert {width > height for width, height in shapes} == {True, False}


def test_layout_is_that_of_coco(data_dir):
    """Names and kinds of tensorflow_datasets/object_detection/coco.py, which tells what a reader of COCO must take."""
    tfds_source("train", str(data_dir))
    features = json.loads((prepared_directory("photo_tiles", str(data_dir), OWN) / "features.json").read_text())
    kinds = {
        name: feature["pythonClassName"].rpartition(".")[2]
        for name, feature in features["featuresDict"]["features"].items()
    }
    assert kinds == {"image": "Image", "image/filename": "Text", "image/id": "Tensor", "objects": "Sequence"}


def test_tiles_are_cut_from_the_photographs_without_overlap(data_dir):
    """Each tile's pixels are found where it was cut, up to JPEG's loss, and no pixel is used twice."""
    for split in ("train", "validation", "test"):
        area = sum(tile.width * tile.height for tile in photo_tiles._tiles(split))
        assert area <= sum(region.width * region.height for _, region in photos.regions(split))
    source = tfds_source("validation", str(data_dir))
    records = [source[i] for i in range(len(source))]
    (record,) = [record for record in records if record.name == f"{0:012}.jpg"]
    first = np.asarray(PIL.Image.open(io.BytesIO(record.encoded)), float)
    _, corner = next(photos.regions("validation"))
    cut = np.asarray(corner, float)[: first.shape[0], : first.shape[1]]
    assert np.abs(first - cut).mean() < 3
