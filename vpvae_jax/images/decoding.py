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
from vpvae_jax.runtime.errors import DataError
from vpvae_jax.runtime.processes import ALONE, Process

_FORMATS = ("JPEG", "PNG", "WEBP")  # of Pillow's decoders; others run programs or read what nobody expects here
_GREY_16 = ("I;16", "I;16B", "I;16L")
_DEEP_MODES = ("I", "F")  # more than 16 bits a channel, in no unit that is known
_MAX_PIXELS = 89_478_485  # Pillow's own limit, 256 MiB of RGB; from the header, before any of them is decoded
_MAX_ASPECT = 50  # of the sides: a line of pixels resized to a short side of 256 would be 256 times as long
_MAX_SMALL = 0.1  # of the images may be too small


class ImageDecoder(Decoder):
    """Decodes records to `(height, width, 3)` uint8 RGB arrays.

    JPEG, PNG and WebP are read, whatever their files are called. Transparent images are put on white, 16 bits of grey
    rounded to 8. Too many pixels, too long a side for the other and too small images count as unreadable.

    Args:
        resize: short side in pixels after resizing (bicubic, antialiased); 0 leaves images as they are.
        min_side: pixels that the short side must have then.
        cache_bytes: see `Decoder`.
    """

    noun = "an image"
    nouns = "images"

    def __init__(self, resize: int = 0, min_side: int = 1, cache_bytes: int = 0):
        super().__init__(cache_bytes)
        self._resize, self._min_side = resize, min_side

    def decode(self, encoded: bytes, record_source: Sequence[Record]) -> np.ndarray:
        """The image of an encoded file, rotated as its EXIF data say."""
        del record_source
        if not encoded:
            raise ValueError("empty file")
        try:
            with PIL.Image.open(io.BytesIO(encoded), formats=_FORMATS) as opened:
                if (refusal := _refusal(opened.size, self._resize, self._min_side)) or opened.mode in _DEEP_MODES:
                    raise ValueError(refusal or f"mode {opened.mode} has more than 16 bits a channel")
                image = _to_rgb(PIL.ImageOps.exif_transpose(opened))
        except PIL.UnidentifiedImageError as error:  # its text names a memory address
            raise ValueError("no JPEG, PNG or WebP image, or damaged") from error
        if self._resize:
            scale = self._resize / min(image.size)
            width, height = (max(self._resize, round(side * scale)) for side in image.size)
            image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
        return np.asarray(image)


def _refusal(size: tuple[int, int], resize: int, min_side: int) -> str:
    """Why an image of a size in pixels is not read, empty if it is."""
    width, height = size
    short, long = min(size), max(size)
    if short < 1 or width * height > _MAX_PIXELS:
        return f"{width} x {height} pixels: expected at most {_MAX_PIXELS:,} of them"
    if long > _MAX_ASPECT * short:
        return f"{width} x {height} pixels: expected a side at most {_MAX_ASPECT} times the other"
    if (resize or short) < min_side:
        return f"{width} x {height} pixels: too small for {min_side} x {min_side}"
    return ""


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode in _GREY_16:
        image = PIL.Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


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
        DataError: from `next`, if no image can be read.
    """

    def augment(name: str, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        del name
        room = [side - crop for side in image.shape[:2]]
        top, left = (int(rng.integers(excess + 1)) if random_crop else excess // 2 for excess in room)
        image = image[top : top + crop, left : left + crop]
        return image[:, ::-1] if flip and rng.integers(2) else image

    decoder = ImageDecoder(resize, crop, cache_bytes)
    return train_stream(
        source, decoder, augment, batch_size=batch_size, seed=seed, num_threads=num_threads, process=process
    )


def eval_images(
    source: Sequence[Record],
    decoder: ImageDecoder,
    *,
    crop: int,
    multiple: int = 1,
    process: Process = ALONE,
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and central `(crop, crop, 3)` uint8 crop of each readable image, in the order of the source.

    Args:
        source: records.
        decoder: decodes, and counts what cannot be read.
        crop: side of the square crop in pixels; 0 for whole images, with sides cut to multiples.
        multiple: sides of whole images are cut to multiples of it, in pixels.
        process: this process, which reads its share.
    """
    for name, image in readable(source, decoder, process):
        height, width = (crop or side - side % multiple for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        yield name, image[top : top + height, left : left + width]


def check_sizes(source: FolderSource | TfdsSource, *, resize: int, min_side: int, max_images: int = 10_000) -> int:
    """Check the sizes of images before a long run, from their headers; the decoder skips small and unreadable ones.

    Args:
        source: records.
        resize: see `ImageDecoder`.
        min_side: smallest side of an image that can be used, in pixels.
        max_images: of a larger source, so many images spread over it are checked.

    Returns:
        How many of those that were checked will be skipped: too small, too large, or with a damaged header.

    Raises:
        DataError: more than a tenth of them cannot be used for their size.
    """
    refused: list[str] = []
    num = num_damaged = 0
    for index in range(0, len(source), -(-len(source) // max_images)):
        try:
            with source.open(index) as file, PIL.Image.open(file, formats=_FORMATS) as opened:
                refusal = _refusal(opened.size, resize, min_side)
        except Exception:  # see Decoder
            num_damaged += 1
            continue
        num += 1
        if refusal:
            refused.append(f"{source[index].name} has {refusal}" if not refused else "")
    if len(refused) > _MAX_SMALL * num:
        raise DataError(
            f"{len(refused)} of {num} images cannot be used ({refused[0]}): lower the crops (data.crop, "
            f"data.eval_crop, codebook.crop), set --config.data.resize to at least {min_side}, or remove them"
        )
    return num_damaged + len(refused)
