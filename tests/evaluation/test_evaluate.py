"""The evaluator against the same metrics computed by other means."""

import io

import numpy as np
import PIL.Image
import pytest
import skimage.metrics

from tests import tiny
from vpvae_jax.data.sources import Record
from vpvae_jax.evaluation.evaluate import evaluate
from vpvae_jax.images.decoding import ImageDecoder, eval_images
from vpvae_jax.images.scoring import ImageScorer
from vpvae_jax.modality import Examples
from vpvae_jax.perceptual.lpips import load_lpips
from vpvae_jax.runtime.errors import CheckpointError, DataError
from vpvae_jax.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(trained):
    return Tokenizer.load(trained)


def _examples(records, crop, batch_size=1):
    decoder = ImageDecoder()
    return Examples(eval_images(records, decoder, crop=crop, multiple=2), len(records), decoder.unreadable, batch_size)


def _records(sizes):
    rng = np.random.default_rng(0)
    records = []
    for number, (height, width) in enumerate(sizes):
        buffer = io.BytesIO()
        smooth = rng.integers(0, 256, (4, 4, 3), np.uint8)
        PIL.Image.fromarray(smooth).resize((width, height), PIL.Image.Resampling.BICUBIC).save(buffer, "png")
        records.append(Record(f"{number}.png", buffer.getvalue()))
    return records


@pytest.mark.parametrize("batch_size", [1, pytest.param(3, marks=pytest.mark.system)])
def test_metrics_are_those_of_an_independent_computation(tokenizer, batch_size, lpips_file):
    records = _records([(32, 32)] * 4)
    scorer = ImageScorer(lpips_weights=lpips_file if batch_size > 1 else "")
    results, counts, pictures = evaluate(tokenizer, _examples(records, 32, batch_size), scorer, name="x", num_kept=2)
    originals = np.stack([np.asarray(PIL.Image.open(io.BytesIO(record.encoded))) for record in records])
    indices = np.asarray(tokenizer.encode(originals))
    decoded = np.asarray(tokenizer.decode(indices))
    psnr = [skimage.metrics.peak_signal_noise_ratio(a, b) for a, b in zip(originals, decoded, strict=True)]
    ssim = [
        skimage.metrics.structural_similarity(
            a, b, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(originals, decoded, strict=True)
    ]
    assert results["psnr_db"] == pytest.approx(np.mean(psnr), abs=1e-3)
    assert results["ssim"] == pytest.approx(np.mean(ssim), abs=1e-3)
    assert [image["psnr_db"] for image in results["examples"]] == pytest.approx(psnr, abs=1e-3)
    if batch_size > 1:
        network, params = load_lpips(lpips_file)
        lpips = np.asarray(network.apply({"params": params}, originals / 127.5 - 1.0, decoded / 127.5 - 1.0))
        assert results["lpips"] == pytest.approx(np.mean(lpips), rel=1e-4)
        assert [image["lpips"] for image in results["examples"]] == pytest.approx(lpips.tolist(), rel=1e-4)
        assert results["lpips_continuous"] < results["lpips"]
    np.testing.assert_array_equal(counts, np.bincount(indices.ravel(), minlength=16))
    shares = counts[counts > 0] / counts.sum()
    assert results["cvu"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()) / 16)
    assert 0.99 < results["cvu_ceiling"] < 1  # 1,024 tokens show 16 codes well
    assert (results["num_examples"], results["num_tokens"], results["num_skipped"]) == (4, 4 * 16 * 16, 0)
    assert results["num_codes_used"] == (counts > 0).sum()
    assert len(pictures) == 2
    np.testing.assert_array_equal(pictures[1].original, originals[1])
    np.testing.assert_array_equal(pictures[1].quantized, decoded[1])


@pytest.mark.system
def test_whole_images_of_several_sizes(tokenizer):
    results, counts, pictures = evaluate(
        tokenizer, _examples(_records([(33, 40), (24, 25)]), 0), ImageScorer(), name="x", num_kept=2
    )
    assert "lpips" not in results
    assert [picture.original.shape for picture in pictures] == [(32, 40, 3), (24, 24, 3)]
    assert counts.sum() == results["num_tokens"] == 16 * 20 + 12 * 12


def test_unreadable_images_are_counted_and_do_not_enter_the_mean(tokenizer):
    good = _records([(32, 32)] * 2)
    bad = [Record("cut.png", good[0].encoded[:60]), Record("empty.png", b"")]
    clean, _, _ = evaluate(tokenizer, _examples(good, 32), ImageScorer(), name="x")
    mixed, _, _ = evaluate(tokenizer, _examples([bad[0], good[0], bad[1], good[1]], 32), ImageScorer(), name="x")
    assert mixed["num_skipped"] == 2
    assert [skipped["record"] for skipped in mixed["skipped"]] == [0, 2]
    assert mixed["psnr_db"] == clean["psnr_db"]


def test_nothing_readable(tokenizer):
    records = [Record(f"{i}.png", b"bad") for i in range(3)]
    with pytest.raises(DataError, match="none of the 3 images can be read"):
        evaluate(tokenizer, _examples(records, 32), ImageScorer(), name="x")


def test_a_damaged_tokenizer_is_named(trained, tmp_path):
    directory = tmp_path / "tokenizer"
    directory.mkdir()
    for name in ("tokenizer.json", "weights.safetensors"):
        (directory / name).write_bytes((tiny.tokenizer(trained) / name).read_bytes())
    (directory / "weights.safetensors").write_bytes(
        (tiny.tokenizer(trained) / "weights.safetensors").read_bytes()[:-50]
    )
    with pytest.raises(CheckpointError, match="is damaged"):
        Tokenizer.load(directory)
