"""Recordings: find, decode, mix to mono, resample to 16 kHz, normalize, crop. `waveform.py` defines a waveform."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Sequence
from types import ModuleType

import grain
import numpy as np

from vpvae_jax.data.sources import FolderSource, Record, TfdsSource, folder_source
from vpvae_jax.data.stream import Decoder, readable, train_stream
from vpvae_jax.runtime.errors import DataError
from vpvae_jax.runtime.processes import ALONE, Process
from vpvae_jax.speech.settings import SpeechData
from vpvae_jax.speech.waveform import LOUDEST, SAMPLE_RATE, normalize_gain

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
AUDIO_KEYS = ("speech", "voice", "audio")  # features of librispeech, common_voice, most others
OWN = {"speech": ("vpvae_jax.speech.prompts", "Speech")}  # our TFDS data sets, prepared on first use: module, class
MIN_SAMPLES = 96  # one frame of the codec, 6 ms
_MIN_SAMPLE_RATE = 4000  # Hz; a header that states less is damaged, and resampling it would fill the memory
_MAX_FRAMES = 2**30  # 6 hours at 48 kHz; a header that states more is damaged, or of a file written to a pipe
_FULL_SCALE = 2**15  # of 16 bit samples, which TFDS stores in integers of any width
_SILENT = 4 / _FULL_SCALE  # a recording never louder than this is rounding noise of 16 bits: it must not be scaled up
_WAV_OPEN_END = 0x7FFFF000  # data sizes from here on mean "until the end of the file" (ffmpeg, sox, arecord)


class AudioDecoder(Decoder):
    """Decodes records to `(samples,)` float32 mono waveforms in [-1, 1] at 16 kHz.

    A record is an encoded file (wav, flac, ogg, mp3: whatever libsndfile reads), which states its rate and channels,
    or an integer array of 16 bit samples, `(samples,)` or `(samples, channels)`. Channels are averaged. Files of
    floats in other units than [-1, 1], such as +-32768, count as unreadable. Truncation is detected in wav (RIFF) and
    flac; truncated ogg, mp3, RF64 and W64 files decode to what is left of them.

    Args:
        normalize: apply `normalize_gain` to the whole recording; silence then counts as unreadable.
        sample_rate: Hz of integer samples if their source does not state it; None if it does.
        min_samples: at 16 kHz; shorter recordings count as unreadable.
        cache_bytes: see `Decoder`.
    """

    noun = "a recording"
    nouns = "recordings"

    def __init__(
        self,
        *,
        normalize: bool = False,
        sample_rate: int | None = None,
        min_samples: int = MIN_SAMPLES,
        cache_bytes: int = 0,
    ):
        super().__init__(cache_bytes)
        self._normalize, self._sample_rate, self._min_samples = normalize, sample_rate, min_samples

    def decode(self, encoded: bytes | np.ndarray, record_source: Sequence[Record]) -> np.ndarray:
        """The waveform of an encoded file or of integer samples.

        Raises:
            DataError: a package of the extra `audio` is missing, or the rate of integer samples is not known.
        """
        if isinstance(encoded, bytes):
            samples, sample_rate = _read_file(encoded)
        else:
            stated = getattr(record_source, "sample_rate", None) or self._sample_rate
            if stated is None:
                raise DataError(
                    "the data set does not state the rate of its samples: set --config.data.sample_rate to it, in Hz"
                )
            samples, sample_rate = _scale(encoded), stated
        waveform = _to_waveform(samples, sample_rate)
        if waveform.size < self._min_samples:
            raise ValueError(f"{waveform.size} samples at 16 kHz, but {self._min_samples} are needed")
        if self._normalize:
            if np.abs(waveform).max() <= _SILENT:
                raise ValueError("silent: nothing to scale")
            waveform = normalize_gain(waveform)
        return waveform


def open_source(data: SpeechData, split: str) -> FolderSource | TfdsSource:
    """The recordings of a split.

    Raises:
        DataError: no such folder, data set, split or feature.
    """
    if data.source == "folder":
        return folder_source(data.path, split, AUDIO_SUFFIXES, "recording")
    from vpvae_jax.data.prepared import audio_source

    return audio_source(data.name, split, data.data_dir, AUDIO_KEYS, OWN)


def train_clips(
    source: Sequence[Record],
    *,
    batch_size: int,
    crop: int,
    normalize: bool = True,
    sample_rate: int | None = None,
    min_samples: int = MIN_SAMPLES,
    seed: int = 0,
    num_threads: int = 2,
    cache_bytes: int = 0,
    process: Process = ALONE,
) -> grain.DatasetIterator:
    """Endless shuffled batches of crops of waveforms.

    Args:
        source: records; each gives one crop an epoch, however long it is.
        batch_size: clips a batch.
        crop: samples of a crop, at a random place; a shorter recording is repeated, as padding with silence would
            affect norms, memory and codebook.
        normalize: scale each recording, before the crop, so that its loudest parts are equally loud.
        sample_rate: see `AudioDecoder`.
        min_samples: see `AudioDecoder`.
        seed: of shuffling and crops.
        num_threads: reading and decoding threads.
        cache_bytes: see `Decoder`.
        process: see `train_stream`.

    Returns:
        A grain iterator over `(batch_size / process.count, crop)` float32 arrays; its state can be saved and restored.

    Raises:
        DataError: from `next`, if no recording can be read or a package of the extra `audio` is missing.
    """

    def augment(name: str, waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        del name
        excess = waveform.size - crop
        if excess < 0:
            return np.resize(waveform, crop)
        start = int(rng.integers(excess + 1))
        return waveform[start : start + crop]

    decoder = AudioDecoder(
        normalize=normalize, sample_rate=sample_rate, min_samples=min_samples, cache_bytes=cache_bytes
    )
    return train_stream(
        source, decoder, augment, batch_size=batch_size, seed=seed, num_threads=num_threads, process=process
    )


def eval_clips(
    source: Sequence[Record], decoder: AudioDecoder, *, max_samples: int = 0, process: Process = ALONE
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and `(samples,)` float32 waveform of each readable recording, in the order of the source.

    Args:
        source: records.
        decoder: decodes and counts what cannot be read.
        max_samples: how much of the beginning of a longer recording is kept; 0 for all.
        process: which share of the source is read here.

    Raises:
        DataError: a package of the extra `audio` is missing.
    """
    for name, waveform in readable(source, decoder, process):
        yield name, waveform[: max_samples or None]


def check_clips(
    source: Sequence[Record],
    *,
    normalize: bool = False,
    sample_rate: int | None = None,
    min_samples: int = MIN_SAMPLES,
    max_clips: int = 16,
) -> None:
    """Decode the first recordings of a source, until one can be read, before a long run.

    Args:
        source: records.
        normalize: see `AudioDecoder`.
        sample_rate: see `AudioDecoder`.
        min_samples: see `AudioDecoder`.
        max_clips: how many to try.

    Raises:
        DataError: none of them can be read, the rate of their samples is not known, or a package of the extra `audio`
            is missing.
    """
    for package in ("soundfile", "soxr"):
        _package(package)
    decoder = AudioDecoder(normalize=normalize, sample_rate=sample_rate, min_samples=min_samples)
    num_tried = min(max_clips, len(source))
    for index in range(num_tried):
        if decoder(index, source) is not None:
            return
    reasons = list(decoder.unreadable.values())
    raise DataError(
        f"none of the first {num_tried} recordings can be read ({reasons[0] if reasons else 'there are none'}): "
        "expected wav, flac, ogg or mp3 files, or 16 bit samples"
    )


def _read_file(encoded: bytes) -> tuple[np.ndarray, int]:
    """`(samples, channels)` float32 and sample rate of a file's bytes."""
    soundfile = _package("soundfile")
    if not encoded:
        raise ValueError("empty file")
    _check_wav_size(encoded)
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            num_frames, sample_rate, is_mp3 = file.frames, file.samplerate, file.format == "MP3"
            if num_frames > _MAX_FRAMES:
                raise ValueError(f"its header states {num_frames} samples: damaged, or written to a pipe")
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:  # its text names a memory address
        raise ValueError(error.error_string) from error
    if len(samples) != num_frames and not is_mp3:  # the header of an mp3 may only estimate
        raise ValueError(f"cut off: its header states {num_frames} samples, {len(samples)} are there")
    return samples, sample_rate


def _check_wav_size(encoded: bytes) -> None:
    """Raise ValueError for a truncated wav file, which libsndfile reads without an error."""
    if encoded[:4] != b"RIFF" or encoded[8:12] != b"WAVE":
        return
    start = 12
    while start + 8 <= len(encoded):
        size = int.from_bytes(encoded[start + 4 : start + 8], "little")
        if encoded[start : start + 4] == b"data":
            num_bytes = len(encoded) - start - 8
            if num_bytes < size < _WAV_OPEN_END:
                raise ValueError(f"cut off: its header states {size} bytes of samples, {num_bytes} are there")
            return
        start += 8 + size + size % 2  # chunks are padded to even sizes


def _scale(samples: np.ndarray) -> np.ndarray:
    """Integer samples as `(samples, channels)` float32 in [-1, 1)."""
    samples = np.asarray(samples)
    if not np.issubdtype(samples.dtype, np.integer) or samples.ndim not in (1, 2):
        raise ValueError(f"array of {samples.dtype}, shape {samples.shape}: expected integer samples")
    if samples.size and not -_FULL_SCALE <= samples.min() <= samples.max() < _FULL_SCALE:
        raise ValueError(f"samples from {samples.min()} to {samples.max()}: expected 16 bit")
    by_channel = samples[:, None] if samples.ndim == 1 else samples
    return by_channel.astype(np.float32) / _FULL_SCALE


def _to_waveform(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """`(samples, channels)` at a rate to `(samples,)` at 16 kHz."""
    if not np.isfinite(samples).all():
        raise ValueError("samples that are not finite")
    largest = np.abs(samples).max(initial=0.0)
    if largest > LOUDEST:  # a file of floats, for libsndfile scales the others
        raise ValueError(f"samples reach {largest:g}: expected [-1, 1], divide floats in units of 16 bits by 32768")
    if sample_rate < _MIN_SAMPLE_RATE:
        raise ValueError(f"sample rate {sample_rate} Hz: expected at least {_MIN_SAMPLE_RATE}")
    waveform = samples.mean(axis=1, dtype=np.float32)
    if sample_rate != SAMPLE_RATE and waveform.size:
        waveform = _package("soxr").resample(waveform, sample_rate, SAMPLE_RATE, quality="HQ")
    return np.clip(waveform, -1.0, 1.0)  # files of floats and resampling may exceed it


def _package(name: str) -> ModuleType:
    """A package of the extra `audio`, which only recordings need."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: soundfile without libsndfile
        raise DataError(
            f"audio needs the package {name}, which cannot be imported: pip install 'vpvae_jax[audio]'"
        ) from error
