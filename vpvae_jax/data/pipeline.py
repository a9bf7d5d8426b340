"""The one grain pipeline: decode, resize, crop, flip, batch. Deterministic in the seed, resumable at any batch."""

from __future__ import annotations

import functools
import io
import logging
import threading
from collections.abc import Iterator, Sequence

import grain
import numpy as np
import PIL.Image
import PIL.ImageOps

from vpvae_jax.data.sources import FolderSource, Record, TfdsSource
from vpvae_jax.errors import DataError
from vpvae_jax.metrics import SSIM_WINDOW

_LOG = logging.getLogger(__name__)
_NUM_POSITIONS = 2**48  # an endless stream: no run reads as many images
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")  # more than 8 bits a channel: a plain conversion would clip them


class ImageDecoder:
    """Decodes records to RGB arrays; keeps those that fit a budget, counts and names once what cannot be read.

    Args:
        resize: short side in pixels after resizing (bicubic, antialiased); 0 leaves images as they are.
        cache_bytes: decoded images kept in memory, so that a small data set is decoded once. The first that come are
            kept until the budget is full.
    """

    def __init__(self, resize: int = 0, cache_bytes: int = 0):
        self.unreadable: dict[int, str] = {}  # "name: reason" by index
        self._resize = resize
        self._free_bytes = cache_bytes
        self._cache: dict[int, tuple[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __call__(self, index: int, record_source: Sequence[Record]) -> tuple[str, np.ndarray] | None:
        """Name and `(height, width, 3)` uint8 image of a record, None if it cannot be read."""
        if index in self._cache:
            return self._cache[index]
        record = record_source[index]
        try:
            image = self._decode(record.encoded)
        except PIL.UnidentifiedImageError:  # its text names a memory address
            self._note_unreadable(index, record.name, "not an image, or damaged")
            return None
        except Exception as error:  # a damaged file makes Pillow trip over anything: struct.error, IndexError, ...
            self._note_unreadable(index, record.name, str(error) or type(error).__name__)
            return None
        with self._lock:
            if image.nbytes <= self._free_bytes and index not in self._cache:
                self._cache[index] = record.name, image
                self._free_bytes -= image.nbytes
        return record.name, image

    def _decode(self, encoded: bytes) -> np.ndarray:
        if not encoded:
            raise ValueError("empty file")
        with PIL.Image.open(io.BytesIO(encoded)) as opened:
            if opened.mode in _DEEP_MODES:
                raise ValueError(f"mode {opened.mode} has more than 8 bits a channel")
            image = PIL.ImageOps.exif_transpose(opened).convert("RGB")
        if self._resize:
            scale = self._resize / min(image.size)
            width, height = (max(self._resize, round(side * scale)) for side in image.size)
            image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
        return np.asarray(image)

    def _note_unreadable(self, index: int, name: str, reason: str) -> None:
        with self._lock:
            is_new = index not in self.unreadable
            self.unreadable[index] = f"{name}: {reason}"
        if is_new:
            _LOG.warning("skipping %s, which cannot be read as an image: %s", name, reason)


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
) -> grain.DatasetIterator:
    """Endless shuffled batches of crops.

    Args:
        source: records; each gives one crop an epoch.
        batch_size: images a batch.
        crop: side of the square crop in pixels.
        resize: short side in pixels before the crop, 0 for none.
        random_crop: crop at a random place; False for the centre.
        flip: mirror every second image, at random.
        seed: of shuffling, crops and flips.
        num_threads: reading and decoding threads.
        cache_bytes: see `ImageDecoder`.

    Returns:
        A grain iterator over `(batch_size, crop, crop, 3)` uint8 arrays; its state can be saved and restored.

    Raises:
        DataError: from `next`, if an image is smaller than the crop or if no image can be read.
    """
    decoder = ImageDecoder(resize, cache_bytes)

    @functools.lru_cache(maxsize=2)
    def order_of(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(len(source))

    def augment(position: int, rng: np.random.Generator) -> np.ndarray | None:
        epoch, place = divmod(position, len(source))
        decoded = decoder(int(order_of(epoch)[place]), source)
        if decoded is None:
            if len(decoder.unreadable) >= len(source):
                raise DataError(f"none of the {len(source)} images can be read: see the warnings above")
            return None
        name, image = decoded
        _check_crop(name, image.shape[1], image.shape[0], crop)
        room = [side - crop for side in image.shape[:2]]
        top, left = (int(rng.integers(excess + 1)) if random_crop else excess // 2 for excess in room)
        image = image[top : top + crop, left : left + crop]
        return image[:, ::-1] if flip and rng.integers(2) else image

    # Epochs are permuted here: grain's own shuffle takes a millisecond an element on data sets of a few dozen images.
    dataset = grain.MapDataset.range(_NUM_POSITIONS).seed(seed).random_map(augment)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * batch_size)
    # Unreadable images are None until here; an iterator drops them, so every batch is full.
    return iter(dataset.to_iter_dataset(options).batch(batch_size, drop_remainder=True))


def eval_images(
    source: Sequence[Record], decoder: ImageDecoder, *, crop: int, multiple: int = 1
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and central `(crop, crop, 3)` uint8 crop of each readable image, in the order of the source.

    Args:
        source: records.
        decoder: decodes and counts what cannot be read.
        crop: side of the square crop in pixels; 0 for the whole image, less what its sides exceed a multiple by.
        multiple: what the sides of a whole image are cut down to a multiple of.

    Raises:
        DataError: an image smaller than the crop, or no readable image at all.
    """
    num_images = 0
    for index in range(len(source)):
        decoded = decoder(index, source)
        if decoded is None:
            continue
        name, image = decoded
        _check_crop(name, image.shape[1], image.shape[0], crop or max(multiple, SSIM_WINDOW))
        height, width = (crop or side - side % multiple for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        yield name, image[top : top + height, left : left + width]
        num_images += 1
    if num_images == 0:
        raise DataError(f"none of the {len(source)} images can be read: see the warnings above")


def check_sizes(source: FolderSource | TfdsSource, *, crop: int, max_images: int = 100_000) -> None:
    """Look at the headers of images spread over a source before a long run; unreadable ones are left to the decoder.

    Raises:
        DataError: an image is smaller than the crop.
    """
    for index in range(0, len(source), -(-len(source) // max_images)):
        try:
            with source.open(index) as file, PIL.Image.open(file) as opened:
                width, height = opened.size
        except Exception:  # see ImageDecoder
            continue
        if min(width, height) < crop:
            _check_crop(source[index].name, width, height, crop)


def _check_crop(name: str, width: int, height: int, crop: int) -> None:
    if min(height, width) < crop:
        raise DataError(
            f"{name} has {width} x {height} pixels but the crop needs {crop} x {crop}: "
            f"lower the crops (data.crop, data.eval_crop, codebook.crop) or set --config.data.resize={crop}"
        )
