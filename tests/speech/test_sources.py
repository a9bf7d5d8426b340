import contextlib
import json
import pathlib
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.core.features import audio_feature

from vpvae_jax.data.prepared import audio_source
from vpvae_jax.runtime.errors import DataError
from vpvae_jax.speech.decoding import AUDIO_KEYS, OWN, AudioDecoder, check_clips, eval_clips, open_source, train_clips
from vpvae_jax.speech.prompts import recordings
from vpvae_jax.speech.settings import SpeechData

NUM = {"train_clean100": 6, "train_clean360": 4, "train_other500": 3, "test_clean": 2}


def samples_of(split, number):
    """int16 samples that tell split and number."""
    rng = np.random.default_rng((list(NUM).index(split), number))
    return rng.integers(-(2**15), 2**15, 500 + 10 * number).astype(np.int16)


@contextlib.contextmanager
def audio_without_tensorflow():
    """What the `Audio` feature needs TensorFlow for: reading files (examples are arrays here), and its type."""
    dtype = property(lambda feature: feature.np_dtype)
    with mock.patch.object(audio_feature, "_EagerDecoder"), mock.patch.object(tfds.features.Audio, "dtype", dtype):
        yield


class TinyLibrispeech(tfds.core.GeneratorBasedBuilder):
    """The features of librispeech on half a second of noise."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "speech": self._speech_feature(),
            "text": tfds.features.Text(),
            "speaker_id": np.int64,
            "chapter_id": np.int64,
            "id": np.str_,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _speech_feature(self):
        return tfds.features.Audio(sample_rate=16_000, dtype=np.int16, file_format="flac")

    def _speech(self, split, number):
        return samples_of(split, number)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in NUM}

    def _generate_examples(self, split):
        for number in range(NUM[split]):
            name = f"{split}-{number:04}"
            numbers = {"speaker_id": number, "chapter_id": 7}
            yield name, {"speech": self._speech(split, number), "text": "A WORD", "id": name} | numbers


class TinySlow(TinyLibrispeech):
    """Another rate, as in other data sets."""

    def _speech_feature(self):
        return tfds.features.Audio(sample_rate=8000, dtype=np.int64)


class TinyLazy(TinyLibrispeech):
    """The config `lazy_decode`: files as they are. Even to state it needs TensorFlow, so `prepare_lazy` does."""

    def _speech_feature(self):
        return tfds.features.Tensor(shape=(), dtype=np.bytes_)

    def _speech(self, split, number):
        return recordings("test")[number % 5].read_bytes()


class TinyVoice(tfds.core.GeneratorBasedBuilder):
    """Of common_voice: int64 samples without a stated rate, and who spoke them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"client_id": tfds.features.Text(), "voice": tfds.features.Audio()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(4):
            yield number, {"client_id": "ab" if number else "", "voice": np.arange(number, 900, dtype=np.int64)}


class TinyFloat(TinyVoice):
    """Audio of a kind that is not read."""

    def _info(self):
        features = {"client_id": np.int64, "audio": tfds.features.Tensor(shape=(None,), dtype=np.float32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self):
        yield 0, {"client_id": 3, "audio": np.zeros(100, np.float32)}


def prepare(builder_class, data_dir):
    with audio_without_tensorflow():
        builder = builder_class(data_dir=str(data_dir), file_format="array_record")
        builder.download_and_prepare()
    return pathlib.Path(builder.data_path)


def prepare_lazy(data_dir):
    version = prepare(TinyLazy, data_dir)
    features = json.loads((version / "features.json").read_text())
    with audio_without_tensorflow():
        stated = tfds.features.Audio(sample_rate=16_000, dtype=np.int16, file_format="flac").to_proto()
    stated.audio.lazy_decode = True
    features["featuresDict"]["features"]["speech"] = json_format.MessageToDict(stated)
    (version / "features.json").write_text(json.dumps(features))
    return version


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory):
    """`data_dir` of a tiny librispeech, as a real preparation leaves it."""
    data_dir = tmp_path_factory.mktemp("tfds")
    prepare(TinyLibrispeech, data_dir)
    return str(data_dir)


def tfds_source(name, split, data_dir=None, keys=AUDIO_KEYS):
    return audio_source(str(name), split, data_dir, keys, OWN)


def of_librispeech(data_dir, split):
    return open_source(SpeechData(name="tiny_librispeech", data_dir=data_dir), split)


def of_folder(path, split):
    return open_source(SpeechData(source="folder", path=str(path)), split)


def names_of(source):
    return [record.name for record in source]


class TestTfdsAudio:
    def test_tfds_itself_cannot_read_it(self, librispeech):
        with pytest.raises(ImportError, match="tensorflow"):
            tfds.builder_from_directory(f"{librispeech}/tiny_librispeech/1.0.0")

    def test_names_and_samples_belong_together(self, librispeech):
        source = of_librispeech(librispeech, "train_clean360")
        assert sorted(names_of(source)) == [f"train_clean360-{number:04}" for number in range(4)]
        for record in source:
            assert record.encoded.dtype == np.int16
            split, _, number = record.name.partition("-")
            np.testing.assert_array_equal(record.encoded, samples_of(split, int(number)))

    def test_by_path(self, librispeech):
        by_path = tfds_source(f"{librispeech}/tiny_librispeech/1.0.0", "test_clean")
        assert names_of(by_path) == names_of(of_librispeech(librispeech, "test_clean"))

    def test_sums_of_splits(self, librispeech):
        splits = ["train_clean100", "train_clean360", "train_other500"]
        source = of_librispeech(librispeech, "+".join(splits))
        assert names_of(source) == [name for split in splits for name in names_of(of_librispeech(librispeech, split))]

    def test_slices(self, librispeech):
        whole = names_of(of_librispeech(librispeech, "train_clean100"))
        assert names_of(of_librispeech(librispeech, "train_clean100[:50%]")) == whole[:3]
        assert names_of(of_librispeech(librispeech, "train_clean100[-2:]")) == whole[-2:]
        summed = of_librispeech(librispeech, "train_clean100[4:]+test_clean[:1]")
        assert names_of(summed) == whole[4:] + names_of(of_librispeech(librispeech, "test_clean"))[:1]

    def test_identity_and_bounds(self, librispeech):
        source = of_librispeech(librispeech, "train_clean100")
        assert source.identity() == "6 records of train_clean100"
        for index in (-1, 6):
            with pytest.raises(IndexError):
                source[index]

    def test_states_the_rate(self, librispeech):
        assert of_librispeech(librispeech, "test_clean").sample_rate == 16_000

    def test_stated_rate_is_used(self, tmp_path):
        source = tfds_source(prepare(TinySlow, tmp_path), "test_clean")
        (_, first), (_, second) = eval_clips(source, AudioDecoder(sample_rate=16_000))
        assert {first.size, second.size} == {1000, 1020}

    def test_trains(self, librispeech, caplog):
        source = of_librispeech(librispeech, "train_clean100+train_clean360")
        check_clips(source)
        batches = train_clips(source, batch_size=5, crop=500, normalize=False)
        crops = np.concatenate([next(batches), next(batches)])
        names = [(split, number) for split in ("train_clean100", "train_clean360") for number in range(NUM[split])]
        whole = {name: samples_of(*name) for name in names}
        found = []
        for crop in np.round(crops * 2**15).astype(np.int16):
            found += [n for n, x in whole.items() if any((x[s : s + 500] == crop).all() for s in range(x.size - 499))]
        assert sorted(found) == sorted(whole)
        assert not caplog.records

    def test_files_kept_as_they_are(self, tmp_path):
        source = tfds_source(prepare_lazy(tmp_path), "test_clean")
        assert {record.encoded for record in source} == {file.read_bytes() for file in recordings("test")[:2]}
        check_clips(source)

    def test_without_a_name_or_a_rate(self, tmp_path):
        source = tfds_source(prepare(TinyVoice, tmp_path), "train")
        assert source.sample_rate is None
        names = names_of(source)
        assert names.count("ab") == 3
        assert all(name == "ab" or name == f"train[{index}]" for index, name in enumerate(names))
        assert source[0].encoded.dtype == np.int64
        check_clips(source, sample_rate=48_000)
        with pytest.raises(DataError, match="does not state the rate"):
            next(eval_clips(source, AudioDecoder()))

    def test_unknown_data_set(self, librispeech):
        with pytest.raises(DataError, match=r"no prepared TFDS data set 'librispeech'.*--file_format=array_record"):
            tfds_source("librispeech", "train", librispeech)

    @pytest.mark.parametrize("split", ["train", "test_clean[", "test_clean[:x%]", "test_clean+dev", "test_clean[:0]"])
    def test_unknown_split_names_those_that_exist(self, librispeech, split):
        with pytest.raises(DataError, match=r"has no split .*: it has .*train_clean100"):
            of_librispeech(librispeech, split)

    def test_no_such_feature(self, librispeech):
        with pytest.raises(DataError, match=r"has features .*speech.*: expected one named voice or audio"):
            tfds_source("tiny_librispeech", "test_clean", librispeech, ("voice", "audio"))

    def test_samples_that_are_no_integers(self, tmp_path):
        with pytest.raises(DataError, match="has audio of float32: expected audio, integer samples or bytes"):
            tfds_source(prepare(TinyFloat, tmp_path), "train")

    def test_tfrecord_cannot_be_read_at_random(self, tmp_path):
        version = prepare(TinyVoice, tmp_path)
        info = json.loads((version / "dataset_info.json").read_text())
        info["fileFormat"] = "tfrecord"
        (version / "dataset_info.json").write_text(json.dumps(info))
        with pytest.raises(DataError, match=r"cannot be read at random: prepare it with --file_format=array_record"):
            tfds_source(str(version), "train")


class TestFolder:
    def test_finds_every_audio_format_and_nothing_else(self, tmp_path):
        for name in ("a.wav", "b/c.FLAC", "b/d.ogg", "e.Mp3", "cover.png", "text.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        assert names_of(of_folder(tmp_path, "all")) == ["a.wav", "b/c.FLAC", "b/d.ogg", "e.Mp3"]

    def test_hold_out_is_that_of_images(self, tmp_path):
        for number in range(45):
            (tmp_path / f"{number:02}.wav").write_bytes(b"x")
        assert names_of(of_folder(tmp_path, "validation")) == ["19.wav", "39.wav"]
        assert len(of_folder(tmp_path, "train")) == 43

    def test_folder_without_audio(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"x")
        with pytest.raises(DataError, match=r"holds no recording, but .*: expected \.wav, \.flac, \.ogg, \.mp3"):
            of_folder(tmp_path, "train")

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"must name a folder of \.wav, \.flac, \.ogg, \.mp3 files"):
            of_folder(tmp_path / "nowhere", "train")

    def test_single_recording(self, tmp_path):
        (tmp_path / "a.wav").write_bytes(b"x")
        with pytest.raises(DataError, match="holds a single recording, which cannot be both"):
            of_folder(tmp_path, "train")
