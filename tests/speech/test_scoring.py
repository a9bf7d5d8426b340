"""What is scored of several processes, and what is left for people to listen to."""

import numpy as np
import pytest
import scipy.io.wavfile

from vpvae_jax.modality import Shown
from vpvae_jax.speech.metrics import METRICS
from vpvae_jax.speech.scores import Scored
from vpvae_jax.speech.scoring import AudioScorer
from vpvae_jax.speech.spectrograms import WAVEFORMS, show_audio

ROWS = ("original", "continuous", "quantized")


@pytest.mark.system
def test_each_example_has_its_own_files_whatever_its_name(tmp_path):
    names = ["голос.wav", "запись.wav", "a/b.wav", "a b.wav", "same", "same", "deep/" * 100 + "name.wav"]
    waveforms = np.random.default_rng(0).uniform(-1, 1, (len(names), 3, 1000)).astype(np.float32)
    examples = [
        Shown("voices-test", name, dict(zip(ROWS, waveform, strict=True)))
        for name, waveform in zip(names, waveforms, strict=True)
    ]
    (tmp_path / WAVEFORMS).mkdir()
    (tmp_path / WAVEFORMS / "of-an-earlier-evaluation.wav").write_bytes(b"")
    paths = show_audio(tmp_path, examples)
    assert all(path.exists() for path in paths)
    files = sorted((tmp_path / WAVEFORMS).iterdir())
    assert len(files) == 3 * len(names)
    found = [scipy.io.wavfile.read(file)[1] for file in files]
    for number, waveform in enumerate(waveforms):
        of_example = [file for file in files if file.name.startswith(f"voices-test-{number}-")]
        assert [file.stem.rpartition("-")[2] for file in of_example] == sorted(ROWS)
        for file in of_example:
            expected = waveform[ROWS.index(file.stem.rpartition("-")[2])]
            np.testing.assert_allclose(found[files.index(file)] / 32767, expected, atol=1 / 32767)
    assert any("голос.wav" in file.name for file in files)


def test_scores_of_two_processes_are_those_of_one():
    """The list of all also has what a metric could not score."""
    scored = [
        Scored("a", {"stoi": 0.5, "pesq_wb": 2.0}, {}),
        Scored("silence", {"stoi": 0.1}, {"pesq_wb": "no speech"}),
        Scored("c", {"stoi": 0.9, "pesq_wb": 3.0}, {}),
    ]

    def results(share, gather):
        with AudioScorer([metric.key for metric in METRICS]) as scorer:
            scorer._pool.results = lambda: iter(share)
            return scorer.results(gather)

    second: list = []
    results(scored[1:], lambda value: second.append(value) or [value])
    together = results(scored[:1], lambda value: [value, *second])
    assert together == results(scored, lambda value: [value])
    means, examples = together
    assert means["stoi"] == pytest.approx(0.5)
    assert (means["pesq_wb"], means["num_scored_pesq_wb"]) == (2.5, 2)
    assert means["unscored"] == [{"name": "silence", "metric": "pesq_wb", "reason": "no speech"}]
    assert [example["name"] for example in examples] == ["a", "silence", "c"]
