import io
import logging
import sys

import numpy as np
import pytest
import soundfile
import soxr

from vpvae_jax.data.sources import Record
from vpvae_jax.runtime.errors import DataError
from vpvae_jax.speech.decoding import AudioDecoder, check_clips, eval_clips, train_clips
from vpvae_jax.speech.prompts import recordings
from vpvae_jax.speech.waveform import SAMPLE_RATE, normalize_gain


def speech(split="test", number=0):
    """int16 samples of an embedded recording."""
    samples, sample_rate = soundfile.read(io.BytesIO(recordings(split)[number].read_bytes()), dtype="int16")
    assert sample_rate == SAMPLE_RATE
    return samples


@pytest.fixture(scope="module")
def original():
    """2 seconds of speech as float32."""
    return speech()[:32_000].astype(np.float32) / 2**15


def encode(samples, sample_rate=SAMPLE_RATE, file_format="FLAC", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format=file_format, subtype=subtype)
    return buffer.getvalue()


def decode(encoded, **kwargs):
    """The waveform of a record, or the reason why there is none."""
    decoder = AudioDecoder(**{"sample_rate": SAMPLE_RATE} | kwargs)
    decoded = decoder(0, [Record("a", encoded)])
    if decoded is None:
        name, _, reason = decoder.unreadable[0].partition(": ")
        assert name == "a"
        return reason
    assert decoded[0] == "a"
    assert decoded[1].dtype == np.float32
    assert decoded[1].ndim == 1
    return decoded[1]


def correlation(first, second):
    size = min(len(first), len(second))
    return np.corrcoef(first[:size], second[:size])[0, 1]


def constant_records(num, size=400):
    """Recordings of one value each: record i is (i + 1) / 64 everywhere, so a batch tells which records it holds."""
    return [Record(f"{i}.flac", encode(np.full(size, (i + 1) / 64))) for i in range(num)]


def ramp_record(size=3000):
    """Sample i is i / 2**15, so that a crop tells where it was taken."""
    return Record("ramp", encode(np.arange(size, dtype=np.int16)))


def take(iterator, num):
    return np.stack([next(iterator) for _ in range(num)])


class TestFormats:
    @pytest.mark.parametrize(
        ("file_format", "subtype", "step"),
        [("WAV", "PCM_16", 0), ("WAV", "PCM_24", 0), ("WAV", "FLOAT", 0), ("WAV", "PCM_U8", 2**-7), ("FLAC", None, 0)],
    )
    def test_lossless_files_give_their_samples(self, original, file_format, subtype, step):
        waveform = decode(encode(original, file_format=file_format, subtype=subtype))
        np.testing.assert_allclose(waveform, original, atol=step)

    @pytest.mark.parametrize(("file_format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
    def test_lossy_files_give_nearly_their_samples(self, original, file_format, subtype):
        waveform = decode(encode(original, file_format=file_format, subtype=subtype))
        assert len(waveform) == len(original)
        assert correlation(waveform, original) > 0.99

    # 8 kHz cannot hold what is above 4 kHz, which is little of the energy of speech.
    @pytest.mark.parametrize(("sample_rate", "at_least"), [(8000, 0.99), (22_050, 0.999), (48_000, 0.9999)])
    @pytest.mark.parametrize("num_channels", [1, 2])
    def test_rates_and_channels_are_converted(self, original, sample_rate, at_least, num_channels):
        resampled = soxr.resample(original, SAMPLE_RATE, sample_rate, quality="VHQ")
        # The mean of the channels is the original, a single one is not.
        channels = resampled if num_channels == 1 else np.stack([1.5 * resampled, 0.5 * resampled], axis=-1)
        waveform = decode(encode(channels, sample_rate, "WAV", "FLOAT"))
        assert abs(len(waveform) - len(original)) <= 1
        assert correlation(waveform, original) > at_least
        assert np.std(waveform) == pytest.approx(np.std(original), rel=0.02)

    def test_a_tone_above_the_new_limit_is_filtered_out(self):
        tone = 0.5 * np.sin(2 * np.pi * 12_000 / 48_000 * np.arange(48_000))
        waveform = decode(encode(tone, 48_000))
        assert np.abs(waveform[1000:-1000]).max() < 1e-3  # else it would come back at 4 kHz

    def test_values_beyond_one_are_clipped(self):
        waveform = decode(encode(np.linspace(-2, 2, 1000), file_format="WAV", subtype="FLOAT"))
        assert (waveform.min(), waveform.max()) == (-1, 1)

    @pytest.mark.parametrize("largest", [5.0, 32_768.0])
    def test_floats_in_other_units_are_refused(self, original, largest):
        encoded = encode(original / np.abs(original).max() * largest, file_format="WAV", subtype="FLOAT")
        assert (
            decode(encoded)
            == f"samples reach {largest:g}: expected [-1, 1], divide floats in units of 16 bits by 32768"
        )
        with pytest.raises(
            DataError, match=r"none of the first 1 recordings can be read \(a: samples reach .* by 32768"
        ):
            check_clips([Record("a", encoded)])

    def test_data_size_of_a_stream_means_all_of_it(self, original):
        encoded = bytearray(encode(original, file_format="WAV"))
        encoded[40:44] = b"\xff\xff\xff\xff"  # what ffmpeg writes to a pipe
        assert encoded[36:40] == b"data"
        np.testing.assert_array_equal(decode(bytes(encoded)), original)


class TestIntegerSamples:
    @pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
    def test_full_scale_is_that_of_16_bit(self, dtype):
        samples = np.array([-(2**15), 0, 2**14, 2**15 - 1] * 50, dtype)
        waveform = decode(samples)
        np.testing.assert_array_equal(waveform[:4], np.array([-1, 0, 0.5, 1 - 2**-15], np.float32))

    def test_rate_is_the_argument(self, original):
        samples = np.round(soxr.resample(original, SAMPLE_RATE, 48_000) * 2**15).clip(-(2**15), 2**15 - 1)
        waveform = decode(samples.astype(np.int64), sample_rate=48_000)
        assert abs(len(waveform) - len(original)) <= 1
        assert correlation(waveform, original) > 0.999

    def test_rate_of_the_source_comes_first(self):
        class Source(list):
            sample_rate = 8000

        source = Source([Record("a", np.zeros(1000, np.int16))])
        assert AudioDecoder(sample_rate=48_000)(0, source)[1].size == 2000

    def test_channels_are_averaged(self):
        samples = np.tile(np.array([[1000, 3000]]), (200, 1))
        np.testing.assert_array_equal(decode(samples), np.full(200, 2000 / 2**15, np.float32))

    @pytest.mark.parametrize(
        ("samples", "reason"),
        [
            (np.full(200, 40_000), "expected 16 bit"),
            (np.zeros(200, np.float32), "expected integer samples"),
            (np.zeros(0, np.int16), "0 samples at 16 kHz"),
            (np.zeros((0, 2), np.int16), "0 samples at 16 kHz"),
            (np.zeros((2, 2, 200), np.int16), "expected integer samples"),
        ],
    )
    def test_what_is_no_16_bit_audio(self, samples, reason):
        assert reason in decode(samples)


class TestNormalize:
    def test_gain_is_that_of_waveform(self, original):
        quiet = original / 16
        encoded = encode(quiet, file_format="WAV", subtype="FLOAT")
        np.testing.assert_array_equal(decode(encoded), quiet)
        np.testing.assert_array_equal(decode(encoded, normalize=True), normalize_gain(quiet))

    def test_gain_is_that_of_the_whole_recording(self):
        # Loud at the end alone: crops from the quiet beginning stay quiet.
        samples = np.concatenate([np.full(9000, 0.05), np.full(1000, 0.5)])
        crops = next(train_clips([Record("a", encode(samples))], batch_size=100, crop=1000))
        assert crops.min() == pytest.approx(0.075, rel=1e-3)
        assert crops.max() == pytest.approx(0.75, rel=1e-3)

    def test_silence_is_unreadable_only_when_there_is_something_to_scale(self):
        encoded = encode(np.zeros(1000))
        assert decode(encoded, normalize=True) == "silent: nothing to scale"
        dither = np.random.default_rng(0).integers(-1, 2, 1000, np.int16)
        assert decode(encode(dither), normalize=True) == "silent: nothing to scale"
        np.testing.assert_array_equal(decode(encoded), np.zeros(1000))


def damaged(original):
    """Encoded files that cannot be read, and what is said of each."""
    wav, flac = encode(original, file_format="WAV"), encode(original)
    unknown_codec = bytearray(wav)
    unknown_codec[20:22] = b"\x00\x20"  # AC-3
    slow = bytearray(wav)
    slow[24:28] = (1).to_bytes(4, "little")  # Hz
    endless = bytearray(flac)
    endless[21] |= 0x0F  # the upper bits of the number of samples
    not_finite = original.copy()
    not_finite[7] = np.nan
    infinite = original.copy()
    infinite[7] = np.inf
    return {
        "empty": (b"", "empty file"),
        "text": (b"this is not audio" * 20, "Format not recognised"),
        "half.wav": (wav[: len(wav) // 2], "cut off"),
        "nearly.wav": (wav[:-2], "cut off"),
        "header.wav": (wav[:30], ""),
        "half.flac": (flac[: len(flac) // 2], ""),
        "nearly.flac": (flac[:-200], ""),
        "codec.wav": (bytes(unknown_codec), ""),
        "slow.wav": (bytes(slow), "sample rate 1 Hz"),
        "endless.flac": (bytes(endless), "its header states"),
        "nan.wav": (encode(not_finite, file_format="WAV", subtype="FLOAT"), "not finite"),
        "inf.wav": (encode(infinite, file_format="WAV", subtype="FLOAT"), "not finite"),
        "short.wav": (encode(original[:95], file_format="WAV"), "95 samples at 16 kHz, but 96 are needed"),
        "none.wav": (encode(original[:0], file_format="WAV"), "0 samples"),
    }


class TestDamagedRecordings:
    def test_each_has_its_reason(self, original):
        for name, (encoded, expected) in damaged(original).items():
            reason = decode(encoded)
            assert isinstance(reason, str), f"{name} was read"
            assert reason
            assert expected in reason, name
            assert "0x" not in reason, f"{name}: {reason} names a memory address"

    def test_shortest_clip_that_is_read(self, original):
        assert len(decode(encode(original[:96]))) == 96
        assert len(decode(encode(original[:10]), min_samples=10)) == 10
        # What counts is the length at 16 kHz.
        assert "96 are needed" in decode(encode(original[:200], 48_000))

    def test_lossy_files_are_read_as_far_as_they_go(self, original):
        for file_format in ("OGG", "MP3"):
            encoded = encode(original, file_format=file_format)
            waveform = decode(encoded[: len(encoded) * 3 // 4])
            assert 8000 < len(waveform) < len(original)
            assert correlation(waveform, original) > 0.99

    def test_are_skipped_and_named_once(self, original, caplog):
        records = constant_records(6)
        records += [Record(name, encoded) for name, (encoded, _) in damaged(original).items()]
        with caplog.at_level(logging.WARNING, logger="vpvae_jax"):
            batches = take(train_clips(records, batch_size=4, crop=400, normalize=False), 6)  # four epochs of six
        seen = np.round(batches[..., 0].reshape(4, 6) * 64) - 1
        np.testing.assert_array_equal(np.sort(seen, axis=1), np.tile(np.arange(6), (4, 1)))
        messages = [record.getMessage() for record in caplog.records if record.name.startswith("vpvae_jax")]
        assert len(messages) == len(damaged(original))
        assert all("cannot be read as a recording" in message for message in messages)

    def test_are_counted(self, original):
        records = [Record(name, encoded) for name, (encoded, _) in damaged(original).items()] + constant_records(2)
        decoder = AudioDecoder()
        assert [name for name, _ in eval_clips(records, decoder)] == ["0.flac", "1.flac"]
        assert len(decoder.unreadable) == len(damaged(original))

    def test_nothing_readable_ends_training_with_an_error(self):
        records = [Record(f"{i}.wav", b"bad") for i in range(3)]
        with pytest.raises(DataError, match="none of the 3 recordings can be read"):
            next(train_clips(records, batch_size=2, crop=100))


class TestTrainClips:
    def test_shape_and_type(self):
        batch = next(train_clips(constant_records(5), batch_size=3, crop=200))
        assert batch.shape == (3, 200)
        assert batch.dtype == np.float32

    def test_crops_lie_anywhere_in_the_recording(self):
        crops = next(train_clips([ramp_record(110)], batch_size=400, crop=100, normalize=False))
        starts = np.round(crops[:, 0] * 2**15).astype(int)
        assert set(starts) == set(range(11))
        np.testing.assert_array_equal(crops, (starts[:, None] + np.arange(100)) / np.float32(2**15))

    @pytest.mark.parametrize("crop", [200, 400])
    def test_a_shorter_recording_is_repeated(self, crop):
        crops = next(train_clips([ramp_record(150)], batch_size=4, crop=crop, normalize=False))
        np.testing.assert_array_equal(crops, np.tile(np.arange(crop) % 150 / np.float32(2**15), (4, 1)))

    def test_a_recording_of_exactly_the_crop(self):
        (crop,) = next(train_clips([ramp_record(150)], batch_size=1, crop=150, normalize=False))
        np.testing.assert_array_equal(crop, np.arange(150, dtype=np.float32) / 2**15)

    def test_each_recording_once_an_epoch_whatever_its_length(self):
        records = [Record(str(i), encode(np.full(300 + 1000 * i, (i + 1) / 64))) for i in range(6)]
        batches = take(train_clips(records, batch_size=4, crop=300, normalize=False), 6)
        seen = np.round(batches[..., 0].reshape(4, 6) * 64) - 1
        np.testing.assert_array_equal(np.sort(seen, axis=1), np.tile(np.arange(6), (4, 1)))

    def test_same_seed_same_batches_for_any_threads_and_cache(self):
        records = [ramp_record(2000 + 100 * i) for i in range(5)]
        first = take(train_clips(records, batch_size=3, crop=500, seed=3, num_threads=1), 6)
        second = take(train_clips(records, batch_size=3, crop=500, seed=3, num_threads=4, cache_bytes=2**20), 6)
        other = take(train_clips(records, batch_size=3, crop=500, seed=4), 6)
        np.testing.assert_array_equal(first, second)
        assert (first != other).any()

    @pytest.mark.parametrize("num_before", [0, 1, 4, 7])
    def test_resumes_bit_for_bit_behind_damaged_recordings(self, num_before):
        records = [Record(file.name, file.read_bytes()) for file in recordings("test")] + [Record("bad", b"bad")]

        def fresh():
            return train_clips(records, batch_size=3, crop=4000, seed=8, cache_bytes=2**22)

        iterator = fresh()
        for _ in range(num_before):
            next(iterator)
        state = iterator.get_state()
        expected = take(iterator, 6)
        other = fresh()
        other.set_state(state)
        np.testing.assert_array_equal(take(other, 6), expected)
        iterator.set_state(state)  # and the same iterator, turned back
        np.testing.assert_array_equal(take(iterator, 6), expected)


class TestEvalClips:
    def test_whole_clips_in_the_order_of_the_source(self):
        records = [ramp_record(3000), ramp_record(500)]
        clips = list(eval_clips(records, AudioDecoder()))
        assert [clip.size for _, clip in clips] == [3000, 500]
        np.testing.assert_array_equal(clips[0][1], np.arange(3000, dtype=np.float32) / 2**15)

    def test_are_cut_on_request(self):
        clips = eval_clips([ramp_record(3000), ramp_record(500)], AudioDecoder(), max_samples=1000)
        for (_, clip), size in zip(clips, (1000, 500), strict=True):
            np.testing.assert_array_equal(clip, np.arange(size, dtype=np.float32) / 2**15)


class TestCheckClips:
    def test_one_readable_recording_is_enough(self):
        check_clips([Record("bad", b"bad")] * 15 + [ramp_record()])

    def test_none_readable_gives_the_first_reason(self):
        records = [Record("first.wav", b""), Record("second.wav", b"bad")] * 10 + [ramp_record()]
        with pytest.raises(DataError, match=r"none of the first 16 recordings.*\(first\.wav: empty file\)"):
            check_clips(records)

    def test_silence_is_found_when_normalizing(self):
        with pytest.raises(DataError, match="silent"):
            check_clips([Record("a", encode(np.zeros(1000)))], normalize=True)

    def test_samples_of_a_rate_that_nobody_states(self):
        records = [Record("a", np.zeros(1000, np.int64))]
        with pytest.raises(DataError, match=r"does not state the rate of its samples: set --config\.data\.sample_rate"):
            check_clips(records)
        check_clips(records, sample_rate=48_000)


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
class TestMissingExtra:
    def test_is_found_before_a_run(self, monkeypatch, package):
        record = ramp_record()
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(DataError, match=rf"needs the package {package}.*vpvae_jax\[audio\]"):
            check_clips([record])

    def test_is_not_taken_for_a_damaged_recording(self, monkeypatch, package):
        record = Record("a", encode(np.arange(3000, dtype=np.int16), 8000))
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(DataError, match=rf"needs the package {package}"):
            next(train_clips([record], batch_size=2, crop=100))
