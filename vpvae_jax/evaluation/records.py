"""What an evaluation stores in a work directory, and the only reader of it."""

from __future__ import annotations

import io
import pathlib
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vpvae_jax.config import workdir as layout
from vpvae_jax.modality import Shown
from vpvae_jax.runtime.errors import CheckpointError
from vpvae_jax.runtime.files import read_json, write_bytes, write_json

_DIGITS = 8  # of a digest in a file name


class Reconstruction(NamedTuple):
    """An example of an evaluation and its reconstructions, in stored form each."""

    original: np.ndarray
    continuous: np.ndarray  # decoded from latents that were not quantized
    quantized: np.ndarray


class Evaluation(NamedTuple):
    """A stored evaluation."""

    results: Mapping[str, Any]  # as `evaluate` returned them, with data, size, tokenizer, machine and config
    counts: np.ndarray  # (codebook_size,) uses of each code
    shown: list[Shown]  # the examples that were kept (`eval.num_pictures`)

    @property
    def data(self) -> str:
        """Name and split of the data, such as `photos-test`."""
        return self.results["data"]["name"]

    @property
    def subject(self) -> tuple[str, str, str]:
        """What was evaluated: evaluations of the same data and size can be compared."""
        return self.data, self.results["size"], self.results["data"]["digest"]

    @property
    def tokenizer(self) -> str:
        """Name of the tokenizer."""
        return self.results["tokenizer"]["name"]


def evaluation_name(results: Mapping[str, Any]) -> str:
    """What the files of an evaluation are called: `photos-test.k256-step3600.2x256px.1a2b3c4d`.

    Data, tokenizer, number and size of the examples, and the beginning of the data's digest; characters that file
    names cannot have are written as in URLs.
    """
    size = f"{results['num_examples'] + results['num_skipped']}x{results['size']}"
    parts = (results["data"]["name"], results["tokenizer"]["name"], size, results["data"]["digest"][:_DIGITS])
    return urllib.parse.quote(".".join(parts), safe="+[]:,")


def write_results(
    workdir: pathlib.Path, name: str, results: dict[str, Any], counts: np.ndarray, kept: list[Reconstruction]
) -> pathlib.Path:
    """Write `eval/NAME.json`, and `eval/NAME.npz` with code counts and examples for the report.

    Args:
        workdir: the work directory.
        name: of the files, see `evaluation_name`.
        results: what `evaluate` returned, with what `Evaluation` needs.
        counts: `(codebook_size,)` int64, uses of each code.
        kept: examples to show.

    Returns:
        The path of the JSON file.
    """
    directory = workdir / layout.EVAL
    directory.mkdir(exist_ok=True)
    arrays = {f"{row}_{i}": array for i, example in enumerate(kept) for row, array in example._asdict().items()}
    archive = io.BytesIO()
    np.savez_compressed(archive, counts=counts, **arrays)
    write_bytes(directory / f"{name}.npz", archive.getvalue())
    write_json(directory / f"{name}.json", results)
    return directory / f"{name}.json"


def read_results(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Results by evaluation (see `evaluation_name`, k16 before k128), without arrays; empty if nothing was evaluated.

    Raises:
        CheckpointError: a damaged file.
    """
    files = sorted((workdir / layout.EVAL).glob("*.json"), key=_by_number)
    return {file.stem: read_json(file) for file in files}


def _by_number(file: pathlib.Path) -> list[str | int]:
    parts = re.split(r"([0-9]+)", file.stem)  # each second one is a number
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


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
        shown = [
            Shown(str(results["data"]["name"]), example_name, example._asdict())
            for example_name, example in zip(names, examples, strict=True)
        ]
        evaluation_name(results)
        str(results["tokenizer"]["sha256"])
    except (KeyError, IndexError, TypeError) as error:
        raise CheckpointError(
            f"{path.with_suffix('.json')} is damaged ({error!r}): evaluate again (--mode=evaluate)"
        ) from error
    return Evaluation(results, counts, shown)
