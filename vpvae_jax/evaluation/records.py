"""What an evaluation stores in a work directory, and the only reader of it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vpvae_jax.config import workdir as layout
from vpvae_jax.modality import Shown
from vpvae_jax.runtime.errors import CheckpointError
from vpvae_jax.runtime.files import read_json, write_json


class Reconstruction(NamedTuple):
    """An example of an evaluation and its reconstructions, in stored form each."""

    original: np.ndarray
    continuous: np.ndarray  # decoded from latents that were not quantized
    quantized: np.ndarray


class Evaluation(NamedTuple):
    """A stored evaluation."""

    results: Mapping[str, Any]  # as `evaluate` returned them, with the machine and the config
    counts: np.ndarray  # (codebook_size,) uses of each code
    shown: list[Shown]  # the examples that were kept (`eval.num_pictures`)


def write_results(
    workdir: pathlib.Path, name: str, results: dict[str, Any], counts: np.ndarray, kept: list[Reconstruction]
) -> pathlib.Path:
    """Write `eval/NAME.json`, and `eval/NAME.npz` with code counts and examples for the report.

    Args:
        workdir: the work directory.
        name: of the evaluation, such as `photos-test`.
        results: what `evaluate` returned.
        counts: `(codebook_size,)` int64, uses of each code.
        kept: examples to show.

    Returns:
        The path of the JSON file.
    """
    directory = workdir / layout.EVAL
    directory.mkdir(exist_ok=True)
    arrays = {f"{row}_{i}": array for i, example in enumerate(kept) for row, array in example._asdict().items()}
    temporary = directory / f".{name}.tmp.npz"
    np.savez_compressed(temporary, counts=counts, **arrays)
    os.replace(temporary, directory / f"{name}.npz")
    write_json(directory / f"{name}.json", results)
    return directory / f"{name}.json"


def read_results(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Results by evaluation (`photos-test`), without arrays; empty if nothing was evaluated.

    Raises:
        CheckpointError: a damaged file.
    """
    files = sorted((workdir / layout.EVAL).glob("*.json"))
    return {file.stem: read_json(file) for file in files}


def read_evaluations(workdir: pathlib.Path) -> dict[str, Evaluation]:
    """Everything that is stored of the evaluations, by name.

    Raises:
        CheckpointError: no evaluation, or a damaged one.
    """
    results = read_results(workdir)
    if not results:
        raise CheckpointError(f"{workdir / layout.EVAL} holds no evaluation: evaluate first (--mode=evaluate)")
    return {name: _read_evaluation(workdir, name, values) for name, values in results.items()}


def _read_evaluation(workdir: pathlib.Path, name: str, results: Mapping[str, Any]) -> Evaluation:
    path = workdir / layout.EVAL / f"{name}.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        num_kept = sum(key.startswith("original_") for key in arrays)
        examples = [Reconstruction(*(arrays[f"{row}_{i}"] for row in Reconstruction._fields)) for i in range(num_kept)]
        counts = arrays["counts"]
    except Exception as error:  # of numpy, of zipfile, of zlib, of the parser of a header
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is missing or damaged ({reason}): evaluate again (--mode=evaluate)") from error
    try:
        names = [str(results["examples"][i]["name"]) for i in range(num_kept)]
    except (KeyError, IndexError, TypeError) as error:
        raise CheckpointError(
            f"{path.with_suffix('.json')} is damaged ({error!r}): evaluate again (--mode=evaluate)"
        ) from error
    return Evaluation(
        results,
        counts,
        [Shown(name, example_name, example._asdict()) for example_name, example in zip(names, examples, strict=True)],
    )
