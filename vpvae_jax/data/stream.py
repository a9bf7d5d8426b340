"""What kinds of signals share: a decoder that skips damaged files, and the one grain stream of batches."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from vpvae_jax.data.sources import Record
from vpvae_jax.runtime.console import visible
from vpvae_jax.runtime.errors import DataError
from vpvae_jax.runtime.processes import ALONE, Process

_LOG = logging.getLogger(__name__)
_NUM_POSITIONS = 2**48  # an endless stream: no run reads as many records


class Decoder:
    """Decodes records to arrays; caches arrays within a budget; counts unreadable records and names each once.

    A subclass sets what a record is (`noun`, with its article, and `nouns`) and how one is decoded. Threads may share a
    decoder.

    Args:
        cache_bytes: bytes of decoded arrays kept in memory, so that a small data set is decoded once. The first arrays
            are kept until the budget is full.
    """

    noun = "a record"
    nouns = "records"

    def __init__(self, cache_bytes: int = 0):
        self.unreadable: dict[int, str] = {}  # "name: reason" by index
        self._free_bytes = cache_bytes
        self._cache: dict[int, tuple[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def decode(self, encoded: Any, record_source: Sequence[Record]) -> np.ndarray:
        """The array of a record. Any error but a DataError is the reason why the record cannot be read."""
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
        except DataError:  # not the fault of this record
            raise
        except Exception as error:  # damaged files raise anything: struct.error, IndexError, ...
            self._note_unreadable(index, name, str(error) or type(error).__name__)
            return None
        with self._lock:
            if decoded.nbytes <= self._free_bytes and index not in self._cache:
                self._cache[index] = record.name, decoded
                self._free_bytes -= decoded.nbytes
        return record.name, decoded

    def _note_unreadable(self, index: int, name: str, reason: str) -> None:
        name, reason = visible(name), visible(reason)
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

    Each of several processes reads its own rows of every batch. Together they are the batch that one process would
    read, as long as every record can be read.

    Args:
        source: records; each is used once an epoch.
        decoder: decodes them; batches skip what cannot be read and stay full.
        augment: (name, decoded array, generator of the randomness) -> array of a fixed shape.
        batch_size: arrays a batch, over all processes.
        seed: seed of shuffling and augmentation.
        num_threads: threads that read and decode.
        process: this process, which reads its rows.

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

    # Epochs are permuted here: grain's own shuffle takes a millisecond an element on a few dozen images.
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
    """Name and array of each readable record of this process' share, in the order of the source."""
    for index in process.share(len(source)):
        decoded = decoder(index, source)
        if decoded is not None:
            yield decoded


def none_readable(num: int, nouns: str) -> DataError:
    """The error for a source without a readable record."""
    return DataError(f"none of the {num} {nouns} can be read: see the warnings above")
