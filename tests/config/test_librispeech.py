"""The step of configs/librispeech.py, whole network and all losses, on recordings that are at hand."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from tests.golden import make_whisper
from tests.speech import tiny_speech
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.training.loop import compile_program, memory_need, new_state


@pytest.fixture(scope="module")
def whisper_weights(tmp_path_factory):
    """A file like openai/whisper-tiny.en's, random."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.numpy.save_file(make_whisper.weights(*make_whisper.SIZES["tiny"]), path)
    return str(path)


def _librispeech(whisper_weights, **overrides):
    values = {"loss.whisper_weights": whisper_weights} | overrides
    return Experiment(load_config("librispeech", "quantizer=vp", values))


@pytest.mark.reliability
def test_the_whole_step_compiles_and_says_what_memory_it_needs(whisper_weights, capsys):
    program = compile_program(_librispeech(whisper_weights))
    with capsys.disabled():
        print(f"\nconfigs/librispeech.py, 24 clips of 7.2 s: {memory_need(program.step)}")
    assert program.step.memory_analysis().temp_size_in_bytes > 0


@pytest.mark.reliability
def test_a_step_runs_on_one_clip(whisper_weights):
    run = _librispeech(
        whisper_weights,
        **{
            "train.batch_size": 1,
            "data.source": "folder",
            "data.path": tiny_speech.RECORDINGS,
            "data.train_split": "train",
        },
    )
    program = compile_program(run)
    state = jax.device_put(new_state(run), program.state_sharding)
    before = jax.tree.map(np.asarray, state.params)
    batch = next(run.batches("train", batch_size=1, crop=run.config.data.crop, seed=0))
    state, metrics = program.step(state, program.frozen, jax.device_put(batch, program.batch_sharding))
    assert {"l1", "stft", "whisper"} <= metrics.keys()
    assert all(np.isfinite(value) for value in metrics.values())
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), state.params["network"], before["network"])
    assert np.mean(jax.tree.leaves(moved)) > 0.9
