import importlib.resources
import io
import itertools
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from vpvae_jax.speech.decoding import AudioDecoder, check_clips, eval_clips, open_source
from vpvae_jax.speech.prompts import SPLITS, recordings
from vpvae_jax.speech.settings import SpeechData

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = importlib.resources.files("vpvae_jax.speech") / "speech_flac"
MAX_BYTES = 4_000_000
NUM = {"train": 19, "validation": 4, "test": 5}
MINUTES = {"train": 2.56, "validation": 0.29, "test": 0.45}


def waveforms(split):
    return {file.name: soundfile.read(io.BytesIO(file.read_bytes()), dtype="float32")[0] for file in recordings(split)}


@pytest.fixture(scope="module")
def prepared(data_dir):
    """Settings of `speech`, which has been prepared."""
    settings = SpeechData(name="speech", data_dir=str(data_dir))
    open_source(settings, "train")
    return settings


class TestFiles:
    def test_are_small_enough_for_a_package(self):
        assert sum(len(file.read_bytes()) for split in SPLITS for file in recordings(split)) <= MAX_BYTES

    @pytest.mark.parametrize("split", SPLITS)
    def test_format_and_length(self, split):
        seconds = 0.0
        for file in recordings(split):
            info = soundfile.info(io.BytesIO(file.read_bytes()))
            assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
            assert info.duration >= 1.5
            seconds += info.duration
        assert len(recordings(split)) == NUM[split]
        assert seconds / 60 == pytest.approx(MINUTES[split], abs=0.005)

    def test_all_is_speech_of_one_level(self):
        for split in SPLITS:
            for name, waveform in waveforms(split).items():
                assert 0.05 < np.sqrt(np.mean(waveform**2)) < 0.2, name
                assert 0.5 < np.abs(waveform).max() < 1, name
                loud = np.flatnonzero(np.abs(waveform) > 164 / 2**15)
                assert loud[0] <= 1600, name
                assert waveform.size - 1 - loud[-1] <= 1600, name
                # A tone or a beep has its energy in few frequencies all along, speech changes.
                frames = waveform[: waveform.size // 512 * 512].reshape(-1, 512)
                power = np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2
                centroids = (power @ np.arange(257)) / power.sum(axis=1) * 16_000 / 512  # Hz
                assert centroids.std() > 300, name

    def test_no_prompt_is_in_two_splits(self):
        names = {split: {file.name for file in recordings(split)} for split in SPLITS}
        for first, second in itertools.combinations(SPLITS, 2):
            assert names[first].isdisjoint(names[second])

    def test_no_recording_is_in_two_splits_under_another_name(self):
        # The middle second of a clip, found in another, would correlate with it perfectly at some lag.
        clips = {(split, name): x for split in SPLITS for name, x in waveforms(split).items()}
        for (split, name), clip in clips.items():
            if split == "train":
                continue
            middle = clip[clip.size // 2 - 8000 : clip.size // 2 + 8000]
            for (other_split, other_name), other in clips.items():
                if other_split == split:
                    continue
                size = 2 ** int(np.ceil(np.log2(other.size + middle.size)))
                spectrum = np.fft.rfft(other, size) * np.conj(np.fft.rfft(middle, size))
                products = np.fft.irfft(spectrum, size)[: other.size - middle.size + 1]
                energy = _energies(other, middle.size)
                peak = np.max(np.abs(products) / np.sqrt(energy * np.sum(middle**2) + 1e-9))
                assert peak < 0.5, f"{name} is in {other_name}"

    def test_licence_and_provenance_lie_beside_them(self):
        licence, readme = ((FOLDER / name).read_text() for name in ("LICENSE", "README.md"))
        assert "CC-BY-SA-3.0" in licence
        assert "creativecommons.org/licenses/by-sa/3.0" in licence
        assert "Allison Smith" in licence
        assert "THE WORK (AS DEFINED BELOW) IS PROVIDED" in licence
        assert "asterisk-core-sounds-en-g722` 1.6.1-1" in readme
        listed = re.findall(r"`(\w+/[\w-]+\.flac)`", readme)
        assert sorted(listed) == sorted(f"{split}/{file.name}" for split in SPLITS for file in recordings(split))

    def test_are_told_to_setuptools(self):
        setup = (ROOT / "setup.py").read_text()
        for pattern in ("speech_flac/LICENSE", "speech_flac/README.md", "speech_flac/*/*.flac"):
            assert f'"{pattern}"' in setup


def _energies(samples, width):
    total = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    return np.maximum(total[width:] - total[:-width], 0)


class TestDataSet:
    @pytest.mark.parametrize("split", SPLITS)
    def test_records_are_the_files(self, prepared, split):
        source = open_source(prepared, split)
        assert {record.name: record.encoded for record in source} == {
            file.name.removesuffix(".flac"): file.read_bytes() for file in recordings(split)
        }

    def test_every_recording_decodes(self, prepared):
        source = open_source(prepared, "train+validation+test")
        check_clips(source)
        decoder = AudioDecoder(normalize=True)
        assert len(list(eval_clips(source, decoder))) == sum(NUM.values())
        assert not decoder.unreadable

    def test_the_folder_is_the_same(self, prepared):
        source = open_source(SpeechData(source="folder", path=str(FOLDER)), "test")
        from_tfds = open_source(prepared, "test")
        assert {record.encoded for record in source} == {record.encoded for record in from_tfds}


@pytest.mark.system
def test_speech_prepared_by_several_processes_at_once(tmp_path):
    code = (
        "import sys; from vpvae_jax.speech.decoding import open_source, SpeechData; "
        "print(len(open_source(SpeechData(name='speech', data_dir=sys.argv[1]), 'train')))"
    )
    words = [sys.executable, "-c", code, tmp_path]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output.split()[-1] == str(NUM["train"])
