"""What is left for people to listen to."""

import numpy as np
import scipy.io.wavfile

from vpvae_jax.scoring.audio import WAVEFORMS, show_audio
from vpvae_jax.scoring.base import Shown

ROWS = ("original", "continuous", "quantized")


def test_each_example_has_files_of_its_own_whatever_its_name(tmp_path):
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
