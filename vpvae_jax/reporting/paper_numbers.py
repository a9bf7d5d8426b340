"""What the paper reports, to stand beside our numbers: `paper_results.csv`, tables 1 to 5 of arXiv 2602.17133."""

from __future__ import annotations

import csv
import functools
import importlib.resources
from collections.abc import Mapping
from typing import Any

from vpvae_jax.config import keys, quantizer_section
from vpvae_jax.quantizers import QUANTIZERS, paper

# By the name of our evaluation: the paper's name of the data, and the settings that make ours the same. The paper has
# Common Voice, too, but of another version than TFDS prepares.
_DATA_SETS = {
    "coco_2017-validation": ("coco/val", {"resize": 256, "eval_crop": 256}),
    "imagenet2012-validation": ("imagenet/val", {"resize": 256, "eval_crop": 256}),
    "librispeech_lazy_decode-test_clean+test_other": ("librispeech/test-clean+test-other", {"eval_crop": 0}),
}
# The paper's methods: our name, the settings that differ from the factory's defaults, the paper's name.
_METHODS: tuple[tuple[str, Mapping[str, Any], str], ...] = (
    ("vp", {}, "VP-VAE"),
    ("vp", {"latent_norm.mean_weight": 0.0, "latent_norm.variance_weight": 0.0}, "VP-VAE without L_norm"),
    ("vp", {"accept": "always"}, "VP-VAE without MH (always accept)"),
    ("fsp", {}, "FSP"),
    ("fsp", {"activation": "normal"}, "FSP (normal CDF)"),
    ("fsp", {"activation": "laplace"}, "FSP (Laplace CDF)"),
    ("fsq", {"symmetric": True, "noise_rate": 0.5}, "FSQ"),
    ("vq", {}, "VQ-VAE"),
    ("simvq", {}, "SimVQ"),
    ("tokenbridge", {}, "TokenBridge"),
)


def paper_numbers(
    quantizer: Mapping[str, Any], codebook_size: int, evaluation: str, data: Mapping[str, Any]
) -> dict[str, float]:
    """The paper's metrics, by our keys, of exactly this method on exactly this data; empty where it has none.

    Args:
        quantizer: section of the training's config, nested.
        codebook_size: of the codebook that was evaluated, see `nominal_size`.
        evaluation: such as `coco_2017-validation`.
        data: section of the evaluation's config.
    """
    data_set, needed = _DATA_SETS.get(evaluation, ("", {}))
    if not data_set or any(data.get(key) != value for key, value in needed.items()):
        return {}
    return _table().get((_method(quantizer, codebook_size), codebook_size, data_set), {})


def nominal_size(quantizer: Mapping[str, Any], num_codes: int) -> int:
    """K as the paper calls it: 256 for levels (8, 6, 5), which make 240; elsewhere the number of codes that exist."""
    levels = tuple(quantizer.get("levels") or ())
    return next((size for size, known in paper.LEVELS.items() if known == levels), num_codes)


def _method(quantizer: Mapping[str, Any], codebook_size: int) -> str:
    """The paper's name of a method with these settings, empty for one that it does not have."""
    if codebook_size not in paper.LEVELS:
        return ""
    name = quantizer["name"]
    default = quantizer_section.make(name, paper.settings(QUANTIZERS[name], codebook_size))
    expected = keys.flatten(keys.to_dict(default))
    differing = {key: value for key, value in keys.flatten(quantizer).items() if value != expected.get(key)}
    return next((label for method, values, label in _METHODS if (method, values) == (name, differing)), "")


@functools.cache
def _table() -> dict[tuple[str, int, str], dict[str, float]]:
    text = (importlib.resources.files("vpvae_jax.reporting") / "paper_results.csv").read_text()
    table: dict[tuple[str, int, str], dict[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        if row["value"]:  # the paper leaves out what collapsed
            key = row["method"], int(row["codebook_size"]), row["dataset"]
            table.setdefault(key, {})[row["metric"]] = float(row["value"])
    return table
