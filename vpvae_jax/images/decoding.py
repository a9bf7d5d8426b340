"""Decode, resize, crop and flip images. Batches are deterministic in the seed and resumable at any batch."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import grain
import numpy as np
import PIL.Image
import PIL.ImageOps

from vpvae_jax.data.sources import FolderSource, Record, TfdsSource
from vpvae_jax.data.stream import Decoder, readable, train_stream
from vpvae_jax.images.metrics import SSIM_WINDOW
from vpvae_jax.runtime.errors import DataError
from vpvae_jax.runtime.processes import ALONE, Process

_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")  # more than 8 bits a channel; conversion would clip them


class ImageDecoder(Decoder):
    """Decodes records to `(height, width, 3)` uint8 RGB arrays.

    Args:
        resize: short side in pixels after resizing (bicubic, antialiased); 0 leaves images as they are.
        cache_bytes: see `Decoder`.
    """

    noun = "an image"
    nouns = "images"

    def __init__(self, resize: int = 0, cache_bytes: int = 0):
        super().__init__(cache_bytes)
        self._resize = resize

    def decode(self, encoded: bytes, record_source: Sequence[Record]) -> np.ndarray:
        """The image of an encoded file, rotated as its EXIF data say."""
        del record_source
        if not encoded:
            raise ValueError("empty file")
        try:
            with PIL.Image.open(io.BytesIO(encoded)) as opened:
                if opened.mode in _DEEP_MODES:
                    raise ValueError(f"mode {opened.mode} has more than 8 bits a channel")
                image = PIL.ImageOps.exif_transpose(opened).convert("RGB")
        except PIL.UnidentifiedImageError as error:  # its text names a memory address
            raise ValueError("not an image, or damaged") from error
        if self._resize:
            scale = self._resize / min(image.size)
            width, height = (max(self._resize, round(side * scale)) for side in image.size)
            image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
        return np.asarray(image)


def train_batches(
    source: Sequence[Record],
    *,
    batch_size: int,
    crop: int,
    resize: int = 0,
    random_crop: bool = True,
    flip: bool = True,
    seed: int = 0,
    num_threads: int = 2,
    cache_bytes: int = 0,
    process: Process = ALONE,
) -> grain.DatasetIterator:
    """Endless shuffled batches of crops.

    Args:
        source: records; each gives one crop an epoch.
        batch_size: images a batch, over all processes.
        crop: side of the square crop in pixels.
        resize: short side in pixels before the crop, 0 for none.
        random_crop: crop at a random place; False for the centre.
        flip: mirror every second image, at random.
        seed: seed of shuffling, crops and flips.
        num_threads: threads that read and decode.
        cache_bytes: see `Decoder`.
        process: see `train_stream`.

    Returns:
        A grain iterator over `(batch_size / process.count, crop, crop, 3)` uint8 arrays; its state can be saved and
        restored.

    Raises:
        DataError: from `next`, if an image is smaller than the crop or if no image can be read.
    """

    def augment(name: str, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _check_size(name, image.shape[1], image.shape[0], crop=crop, min_side=0)
        room = [side - crop for side in image.shape[:2]]
        top, left = (int(rng.integers(excess + 1)) if random_crop else excess // 2 for excess in room)
        image = image[top : top + crop, left : left + crop]
        return image[:, ::-1] if flip and rng.integers(2) else image

    decoder = ImageDecoder(resize, cache_bytes)
    return train_stream(
        source, decoder, augment, batch_size=batch_size, seed=seed, num_threads=num_threads, process=process
    )


def eval_images(
    source: Sequence[Record],
    decoder: ImageDecoder,
    *,
    crop: int,
    multiple: int = 1,
    min_side: int = SSIM_WINDOW,
    process: Process = ALONE,
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and central `(crop, crop, 3)` uint8 crop of each readable image, in the order of the source.

    Args:
        source: records.
        decoder: decodes, and counts what cannot be read.
        crop: side of the square crop in pixels; 0 for whole images, with sides cut to multiples.
        multiple: sides of whole images are cut to multiples of it, in pixels.
        min_side: smallest side of a whole image after the cut, in pixels; the metrics need it.
        process: this process, which reads its share.

    Raises:
        DataError: an image smaller than the crop, or too small for the metrics.
    """
    needed = -(-min_side // multiple) * multiple
    for name, image in readable(source, decoder, process):
        _check_size(name, image.shape[1], image.shape[0], crop=crop, min_side=needed)
        height, width = (crop or side - side % multiple for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        yield name, image[top : top + height, left : left + width]


def check_sizes(source: FolderSource | TfdsSource, *, crop: int, min_side: int, max_images: int = 100_000) -> None:
    """Check the sizes of images before a long run, from their headers; the decoder reports unreadable ones.

    Args:
        source: records.
        crop: side of the square crop in pixels; 0 for whole images.
        min_side: smallest side of a whole image, in pixels.
        max_images: of a larger source, so many images spread over it are checked.

    Raises:
        DataError: an image smaller than the crop or, without a crop, than the smallest side.
    """
    for index in range(0, len(source), -(-len(source) // max_images)):
        try:
            with source.open(index) as file, PIL.Image.open(file) as opened:
                width, height = opened.size
        except Exception:  # see Decoder
            continue
        if min(width, height) < (crop or min_side):
            _check_size(source[index].name, width, height, crop=crop, min_side=min_side)


def _check_size(name: str, width: int, height: int, *, crop: int, min_side: int) -> None:
    if min(width, height) < crop:
        raise DataError(
            f"{name} has {width} x {height} pixels but the crop needs {crop} x {crop}: "
            f"lower the crops (data.crop, data.eval_crop, codebook.crop) or set --config.data.resize={crop}"
        )
    if not crop and min(width, height) < min_side:
        raise DataError(
            f"{name} has {width} x {height} pixels but the metrics need {min_side} x {min_side}: "
            f"remove it, or set --config.data.resize to at least {min_side}"
        )
