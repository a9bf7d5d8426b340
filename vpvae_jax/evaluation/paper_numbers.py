"""What the paper reports, to stand beside what was measured: `paper_results.csv`, tables 1 to 5 of arXiv 2602.17133."""

from __future__ import annotations

import csv
import functools
import importlib.resources
import math
from collections.abc import Mapping
from typing import Any

from vpvae_jax.quantizers import paper

# Evaluations by our name, and what they are to the paper.
_DATA_SETS = {
    "coco_2017-validation": "coco/val",
    "imagenet2012-validation": "imagenet/val",
    "librispeech_lazy_decode-test_clean+test_other": "librispeech/test-clean+test-other",
    "common_voice_en-test": "common_voice_18/en/test",
}
_METHODS = {"vp": "VP-VAE", "fsp": "FSP", "fsq": "FSQ", "vq": "VQ-VAE", "simvq": "SimVQ", "tokenbridge": "TokenBridge"}
_ACTIVATIONS = {"normal": "FSP (normal CDF)", "laplace": "FSP (Laplace CDF)"}


def paper_numbers(quantizer: Mapping[str, Any], evaluation: str) -> dict[str, float]:
    """The paper's figures of merit, by our keys, of a method on a data set; empty where it has none.

    Args:
        quantizer: section of a config.
        evaluation: such as `coco_2017-validation`.
    """
    method, size = _method(quantizer), nominal_size(quantizer)
    return _table().get((method, size, _DATA_SETS.get(evaluation, "")), {}) if method else {}


def nominal_size(quantizer: Mapping[str, Any]) -> int:
    """K as the paper calls it: 256 for levels (8, 6, 5); the number of codes where the paper has no such levels."""
    levels = tuple(quantizer.get("levels") or ())
    if not levels:
        return int(quantizer.get("codebook_size") or 0)
    return next((size for size, known in paper.LEVELS.items() if known == levels), math.prod(levels))


def _method(quantizer: Mapping[str, Any]) -> str | None:
    """The paper's name of a method, None for one that it has not."""
    name = quantizer["name"]
    if name == "fsp" and quantizer["activation"] != "tanh":
        return _ACTIVATIONS.get(quantizer["activation"])
    if name == "vp" and quantizer["accept"] == "always":
        return "VP-VAE without MH (always accept)"
    if name == "vp" and not quantizer["mean_weight"] and not quantizer["variance_weight"]:
        return "VP-VAE without L_norm"
    return _METHODS.get(name)


@functools.cache
def _table() -> dict[tuple[str, int, str], dict[str, float]]:
    text = (importlib.resources.files("vpvae_jax.evaluation") / "paper_results.csv").read_text()
    table: dict[tuple[str, int, str], dict[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        if row["value"]:  # the paper leaves out what collapsed
            key = row["method"], int(row["codebook_size"]), row["dataset"]
            table.setdefault(key, {})[row["metric"]] = float(row["value"])
    return table
