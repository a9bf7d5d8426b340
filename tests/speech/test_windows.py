import numpy as np
import pytest

from vpvae_jax.speech.windows import Windows, decode_windows, encode_windows

WINDOWS = Windows(hop=2, window=8, context=2, batch_size=3)


def _encode(calls):
    def function(batch):
        calls.append(batch.shape)
        return batch.reshape(len(batch), WINDOWS.window, WINDOWS.hop)

    return function


@pytest.mark.parametrize("samples", [1, 2, 15, 16, 17, 24, 57, 200])
def test_each_token_comes_from_its_own_samples_and_one_shape_serves_all_lengths(samples):
    waveforms, calls = np.random.default_rng(0).normal(size=(2, samples)).astype(np.float32), []
    latents = encode_windows(WINDOWS, _encode(calls), waveforms)
    padded = np.pad(waveforms, ((0, 0), (0, samples % 2)))
    np.testing.assert_array_equal(latents, padded.reshape(2, -1, 2))
    decoded = decode_windows(WINDOWS, lambda z: z.reshape(len(z), -1), latents)
    np.testing.assert_array_equal(decoded, padded)
    assert set(calls) == {(3, 16)}


@pytest.mark.parametrize("samples", [3, 16])
def test_a_recording_of_one_window_goes_alone_and_repeated(samples):
    waveform, seen = np.arange(1, samples + 1, dtype=np.float32)[None], []
    encode_windows(WINDOWS, lambda batch: seen.append(batch) or batch.reshape(1, 8, 2), waveform)
    ((window,),) = seen
    once = np.pad(waveform[0], (0, samples % 2))
    np.testing.assert_array_equal(window, np.resize(once, 16))
    latents = np.arange(samples, dtype=np.float32).reshape(1, samples, 1)
    seen.clear()
    decode_windows(WINDOWS, lambda batch: seen.append(batch) or np.repeat(batch[:, :, 0], 2, axis=1), latents[:, :3])
    np.testing.assert_array_equal(seen[0][0, :, 0], [0, 1, 2, 0, 1, 2, 0, 1])


def test_no_two_windows_are_the_same():
    starts = []

    def function(batch):
        starts.extend(batch[:, 0])
        return batch.reshape(len(batch), 8, 2)

    encode_windows(WINDOWS._replace(batch_size=1), function, np.arange(18, dtype=np.float32)[None])
    assert starts == [0, 2]


def test_tokens_that_are_kept_have_context_where_the_recording_has_it():
    positions = np.arange(400, dtype=np.float32)[None]
    windows = []

    def function(batch):
        tokens = batch.reshape(len(batch), 8, 2)
        windows.extend(tokens[:, :, 0] / 2)
        return np.stack([tokens[:, :, 0], np.broadcast_to(np.arange(8), tokens.shape[:2])], axis=-1)

    place = encode_windows(WINDOWS, function, positions)[0, :, 1]
    assert (place[2:-2] >= 2).all()
    assert (place[2:-2] < 6).all()
