"""What images and recordings share: a decoder that skips damaged files, and the one grain stream of batches."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from vpvae_jax.data.sources import Record
from vpvae_jax.errors import DataError

_LOG = logging.getLogger(__name__)
_NUM_POSITIONS = 2**48  # an endless stream: no run reads as many records


@dataclasses.dataclass(frozen=True)
class Process:
    """One of the processes of a run."""

    index: int  # 0..count - 1
    count: int

    def share(self, num: int) -> range:
        """Which of so many things are this process' own: those of all processes are all, in order."""
        return range(num * self.index // self.count, num * (self.index + 1) // self.count)


ALONE = Process(0, 1)


class Decoder:
    """Decodes records to arrays; keeps those that fit a budget, counts and names once what cannot be read.

    A subclass says what a record is (`noun`, with its article, and `nouns`) and how one is decoded. Threads may share a
    decoder.

    Args:
        cache_bytes: decoded arrays kept in memory, so that a small data set is decoded once. The first that come are
            kept until the budget is full.
    """

    noun = "a record"
    nouns = "records"

    def __init__(self, cache_bytes: int = 0):
        self.unreadable: dict[int, str] = {}  # "name: reason" by index
        self._free_bytes = cache_bytes
        self._cache: dict[int, tuple[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def decode(self, encoded: Any, record_source: Sequence[Record]) -> np.ndarray:
        """The array of a record; whatever it raises, but for a DataError, is why the record cannot be read."""
        raise NotImplementedError

    def __call__(self, index: int, record_source: Sequence[Record]) -> tuple[str, np.ndarray] | None:
        """Name and array of a record, None if it cannot be read."""
        if index in self._cache:
            return self._cache[index]
        name = f"record {index}"
        try:
            record = record_source[index]
            name = record.name
            decoded = self.decode(record.encoded, record_source)
        except DataError:  # not this record's fault
            raise
        except Exception as error:  # a damaged file makes a library trip over anything: struct.error, IndexError, ...
            self._note_unreadable(index, name, str(error) or type(error).__name__)
            return None
        with self._lock:
            if decoded.nbytes <= self._free_bytes and index not in self._cache:
                self._cache[index] = record.name, decoded
                self._free_bytes -= decoded.nbytes
        return record.name, decoded

    def _note_unreadable(self, index: int, name: str, reason: str) -> None:
        with self._lock:
            is_new = index not in self.unreadable
            self.unreadable[index] = f"{name}: {reason}"
        if is_new:
            _LOG.warning("skipping %s, which cannot be read as %s: %s", name, self.noun, reason)


def train_stream(
    source: Sequence[Record],
    decoder: Decoder,
    augment: Callable[[str, np.ndarray, np.random.Generator], np.ndarray],
    *,
    batch_size: int,
    seed: int = 0,
    num_threads: int = 2,
    process: Process = ALONE,
) -> grain.DatasetIterator:
    """Endless shuffled batches, the same for the same seed and resumable at any batch.

    Of several processes each reads its own rows of every batch: together they are the batch that one process would
    read, as long as every record can be read.

    Args:
        source: records; each is used once an epoch.
        decoder: what cannot be read is left out of the batches, which stay full.
        augment: from name and decoded array, with the randomness to use, to an array of a fixed shape.
        batch_size: arrays a batch of all processes.
        seed: of shuffling and augmentation.
        num_threads: reading and decoding threads.
        process: which rows are read here.

    Returns:
        A grain iterator over `(batch_size / process.count, ...)` arrays; its state can be saved and restored.

    Raises:
        DataError: from `next`, if nothing can be read.
    """

    @functools.lru_cache(maxsize=2)
    def order_of(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(len(source))

    def draw(position: int, rng: np.random.Generator) -> np.ndarray | None:
        epoch, place = divmod(position, len(source))
        decoded = decoder(int(order_of(epoch)[place]), source)
        if decoded is None:
            if len(decoder.unreadable) >= len(source):
                raise none_readable(len(source), decoder.nouns)
            return None
        return augment(*decoded, rng)

    # Epochs are permuted here: grain's own shuffle takes a millisecond an element on data sets of a few dozen images.
    drawn = grain.MapDataset.range(_NUM_POSITIONS).seed(seed).random_map(draw)
    num_rows = batch_size // process.count
    dataset = grain.MapDataset.source(_Rows(drawn, batch_size, num_rows, process.index * num_rows))
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_rows)
    # Unreadable records are None until here; an iterator drops them, so every batch is full.
    return iter(dataset.to_iter_dataset(options).batch(num_rows, drop_remainder=True))


class _Rows:
    """Some rows of every batch of a stream: `num_rows` from the `first`."""

    def __init__(self, stream: Sequence, batch_size: int, num_rows: int, first: int):
        self._stream, self._batch_size, self._num_rows, self._first = stream, batch_size, num_rows, first

    def __len__(self) -> int:
        return len(self._stream) // self._batch_size * self._num_rows

    def __getitem__(self, position: int) -> np.ndarray | None:
        batch, row = divmod(position, self._num_rows)
        return self._stream[batch * self._batch_size + self._first + row]


def readable(source: Sequence[Record], decoder: Decoder, process: Process = ALONE) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of each readable record, in the order of the source; of several processes, of its share."""
    for index in process.share(len(source)):
        decoded = decoder(index, source)
        if decoded is not None:
            yield decoded


def none_readable(num: int, nouns: str) -> DataError:
    """What to raise where nothing can be read."""
    return DataError(f"none of the {num} {nouns} can be read: see the warnings above")
