"""Score a tokenizer on images: one evaluator for every method."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from vpvae_jax import metrics
from vpvae_jax import workdir as layout
from vpvae_jax.data.images import ImageDecoder, eval_images
from vpvae_jax.data.sources import Record
from vpvae_jax.tokenizer import Tokenizer

MAX_DB = 100.0  # an image without any error counts as this PSNR, so that means stay finite


class Picture(NamedTuple):
    """An image of an evaluation and what became of it; uint8 `(h, w, 3)` each."""

    original: np.ndarray
    continuous: np.ndarray
    quantized: np.ndarray


def evaluate(
    tokenizer: Tokenizer,
    source: Sequence[Record],
    *,
    name: str,
    crop: int,
    resize: int = 0,
    batch_size: int = 1,
    num_pictures: int = 0,
) -> tuple[dict[str, Any], np.ndarray, list[Picture]]:
    """Reconstruct every image of a source and score it after rounding to 8 bits.

    PSNR (at most `MAX_DB`) and SSIM are means over images; usage is counted over all tokens of the source.

    Args:
        tokenizer: what is scored.
        source: images.
        name: shown on the progress bar.
        crop: side of the central crop in pixels, 0 for whole images.
        resize: short side in pixels before the crop, 0 for none.
        batch_size: images at a time; 1 unless all have one size.
        num_pictures: how many images to return.

    Returns:
        results: `psnr_db`, `ssim` of the quantized reconstruction, `psnr_db_continuous`, `ssim_continuous` of the
            decoder fed the unquantized latents, `cvu`, and the counts they rest on; `images` lists the scores of each.
        counts: `(codebook_size,)` int64, uses of each code.
        pictures: the first images.

    Raises:
        DataError: an image smaller than the crop, or no readable image.
    """
    counts = np.zeros(tokenizer.codebook_size, np.int64)
    images: list[dict[str, Any]] = []
    pictures: list[Picture] = []
    decoder = ImageDecoder(resize)
    bar = tqdm.tqdm(total=len(source), unit="image", desc=f"evaluating {name}")
    remaining = eval_images(source, decoder, crop=crop, multiple=tokenizer.stride)
    while batch := list(itertools.islice(remaining, batch_size)):
        original = np.stack([image for _, image in batch])
        # The last batch is filled up, so that one program serves all; what was added is cut off again.
        padded = jnp.pad(original, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)), mode="edge")
        z = tokenizer.latents(padded)
        indices = tokenizer.encode_latents(z)
        continuous, quantized = tokenizer.decode_latents(z), tokenizer.decode(indices)
        scores = {
            "psnr_db": metrics.psnr(quantized, padded),
            "ssim": metrics.ssim(quantized, padded),
            "psnr_db_continuous": metrics.psnr(continuous, padded),
            "ssim_continuous": metrics.ssim(continuous, padded),
        }
        shown = Picture(*jax.device_get((padded, continuous, quantized)))
        counts += np.bincount(np.asarray(indices)[: len(batch)].ravel(), minlength=len(counts))
        for i, (image_name, _) in enumerate(batch):
            images.append({"name": image_name} | {key: min(float(value[i]), MAX_DB) for key, value in scores.items()})
            if len(pictures) < num_pictures:
                pictures.append(Picture(*(part[i] for part in shown)))
        bar.update(len(batch))
    bar.close()
    means = {key: float(np.mean([image[key] for image in images])) for key in images[0] if key != "name"}
    results = means | {
        "cvu": metrics.cvu(counts),
        "codebook_size": tokenizer.codebook_size,
        "num_codes_used": int((counts > 0).sum()),
        "num_tokens": int(counts.sum()),
        "num_images": len(images),
        "num_skipped": len(decoder.unreadable),
        "step": tokenizer.step,
        "images": images,
    }
    return results, counts, pictures


def write_results(
    workdir: pathlib.Path, name: str, results: dict[str, Any], counts: np.ndarray, pictures: list[Picture]
) -> pathlib.Path:
    """Write `eval/NAME.json`, and `eval/NAME.npz` with code counts and pictures for the report."""
    directory = workdir / layout.EVAL
    directory.mkdir(exist_ok=True)
    arrays = {f"{row}_{i}": image for i, picture in enumerate(pictures) for row, image in picture._asdict().items()}
    temporary = directory / f".{name}.tmp.npz"
    np.savez_compressed(temporary, counts=counts, **arrays)
    os.replace(temporary, directory / f"{name}.npz")
    layout.write_json(directory / f"{name}.json", results)
    return directory / f"{name}.json"
