"""Speech through `main`: what a run leaves, and what becomes of recordings that are not as they ought."""

import io
import json
import shutil

import numpy as np
import PIL.Image
import pytest
import scipy.io.wavfile
import soundfile

from tests import tiny
from tests.speech import tiny_speech
from tests.speech.recordings import NAMES, recording
from vpvae_jax.runtime.errors import DataError
from vpvae_jax.speech.metrics import METRICS, si_sdr, stoi
from vpvae_jax.training.metric_log import read_metrics

SPLITS = {"validation": 4, "test": 5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished work directory, not to be changed."""
    workdir = tmp_path_factory.mktemp("speech")
    tiny.do(tiny_speech.config({"eval.every": 2, "eval.num_watched": 1, "codebook.every": 2}), workdir)
    return workdir


def _results(workdir, split):
    return json.loads(next((workdir / "eval").glob(f"*-{split}.*.json")).read_text())


@pytest.mark.system
def test_a_run_leaves_figures_recordings_and_pictures(trained):
    for split, number in SPLITS.items():
        results = _results(trained, split)
        assert (results["num_examples"], results["num_skipped"], results["skipped"]) == (number, 0, [])
        assert results["bits_per_second"] == pytest.approx(16_000 / 96 * 4)
        for metric in METRICS:
            for key in (metric.key, f"{metric.key}_continuous"):
                unscored = [each for each in results["unscored"] if each["metric"] == key]
                assert results[f"num_scored_{key}"] + len(unscored) == number
    assert (trained / "spectrograms.png").stat().st_size > 0
    with PIL.Image.open(trained / "spectrograms.png") as image:
        image.verify()
    wavs = sorted((trained / "audio").glob("*.wav"))
    assert len(wavs) == 2 * 3  # one recording a split: original, continuous, quantized
    lengths = {len(scipy.io.wavfile.read(path)[1]) for path in wavs if "-test-" in path.name}
    assert len(lengths) == 1


@pytest.mark.system
def test_the_wav_of_the_original_is_the_recording(trained):
    rate, samples = scipy.io.wavfile.read(next((trained / "audio").glob(f"*-test-*{NAMES[0]}*-original.wav")))
    assert rate == 16_000
    np.testing.assert_allclose(samples / 32767, recording(NAMES[0]), atol=1 / 32767)


@pytest.mark.system
def test_scores_are_those_of_the_tokenizer(trained):
    """Against the metric of tokens that are encoded and decoded here."""
    from vpvae_jax.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(trained)
    waveform = recording(NAMES[0])
    decoded = np.asarray(tokenizer.decode(tokenizer.encode(waveform[None])))[0, : waveform.size]
    each = next(example for example in _results(trained, "test")["examples"] if NAMES[0] in example["name"])
    assert each["stoi"] == pytest.approx(stoi(decoded, waveform), abs=1e-4)
    assert each["si_sdr_db"] == pytest.approx(si_sdr(decoded, waveform), abs=1e-2)


@pytest.mark.system
def test_scores_are_seen_while_it_trains(trained):
    last = read_metrics(trained)[-1]
    assert {"eval_stoi_continuous", "eval_stoi", "eval_cvu"} <= last.keys()


@pytest.mark.system
def test_recordings_of_every_kind_are_converted_counted_or_listed(trained, tmp_path):
    good = recording(NAMES[0])
    folder = tmp_path / "mixed"
    folder.mkdir()
    soundfile.write(folder / "good.flac", good, 16_000)
    soundfile.write(folder / "narrow.wav", good[::2], 8_000)
    soundfile.write(folder / "stereo.wav", np.stack([np.repeat(good, 3)] * 2, axis=1), 48_000)
    soundfile.write(folder / "silence.wav", np.zeros(16_000), 16_000)
    soundfile.write(folder / "click.wav", good[8000:8050], 16_000)  # shorter than a frame
    nan = good.copy()
    nan[100] = np.nan
    soundfile.write(folder / "nan.wav", nan, 16_000, subtype="FLOAT")
    cut = io.BytesIO()
    soundfile.write(cut, good, 16_000, format="FLAC")
    (folder / "cut.flac").write_bytes(cut.getvalue()[:5000])
    (folder / "codec.mp3").write_bytes(b"no codec writes this" * 50)
    shutil.copytree(trained, tmp_path / "run")
    tiny.do(None, tmp_path / "run", "evaluate", data__path=str(folder), eval__splits=("all",))
    results = _results(tmp_path / "run", "all")
    assert (results["num_examples"], results["num_skipped"]) == (4, 4)
    reasons = " ".join(skipped["reason"] for skipped in results["skipped"])
    for reason in ("not finite", "96 are needed"):
        assert reason in reasons
    silent = [each for each in results["unscored"] if "silence" in each["name"]]
    assert {each["metric"] for each in silent} == {
        f"{metric.key}{suffix}" for metric in METRICS for suffix in ("", "_continuous")
    }
    by_name = {each["name"]: each for each in results["examples"]}
    assert {name for name, each in by_name.items() if "si_sdr_db" in each} == {"good.flac", "narrow.wav", "stereo.wav"}


@pytest.mark.parametrize(
    ("files", "message"),
    [({}, "holds no recording"), ({"codec.mp3": b"no codec writes this" * 50}, "can be read")],
)
def test_a_folder_without_a_recording_ends_before_anything_is_written(tmp_path, files, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    config = tiny_speech.config({"data.path": str(folder), "data.train_split": "all", "eval.splits": ("all",)})
    with pytest.raises(DataError, match=message):
        tiny.do(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
