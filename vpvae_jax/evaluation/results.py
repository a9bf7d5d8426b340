"""What an evaluation leaves in a work directory, and reading it again."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vpvae_jax import workdir as layout
from vpvae_jax.errors import CheckpointError
from vpvae_jax.scoring.base import Figure, Shown

_ROWS = ("original", "continuous", "quantized")


class Reconstruction(NamedTuple):
    """An example of an evaluation and what became of it, in stored form each."""

    original: np.ndarray
    continuous: np.ndarray
    quantized: np.ndarray


def write_results(
    workdir: pathlib.Path, name: str, results: dict[str, Any], counts: np.ndarray, kept: list[Reconstruction]
) -> pathlib.Path:
    """Write `eval/NAME.json`, and `eval/NAME.npz` with code counts and examples for the report."""
    directory = workdir / layout.EVAL
    directory.mkdir(exist_ok=True)
    arrays = {f"{row}_{i}": array for i, example in enumerate(kept) for row, array in example._asdict().items()}
    temporary = directory / f".{name}.tmp.npz"
    np.savez_compressed(temporary, counts=counts, **arrays)
    os.replace(temporary, directory / f"{name}.npz")
    layout.write_json(directory / f"{name}.json", results)
    return directory / f"{name}.json"


def read_results(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Evaluations by name (`photos-test`), as `evaluate` wrote them."""
    files = sorted((workdir / layout.EVAL).glob("*.json"))
    return {file.stem: layout.read_json(file) for file in files}


def read_arrays(workdir: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    """`eval/NAME.npz`: uses of each code, and the examples that were kept.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    path = workdir / layout.EVAL / f"{name}.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # of numpy, of zipfile, of zlib, of the parser of a header
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is missing or damaged ({reason}): evaluate again (--mode=evaluate)") from error


def kept_examples(workdir: pathlib.Path, results: dict[str, dict[str, Any]]) -> list[Shown]:
    """The examples that the evaluations kept (`eval.num_pictures`)."""
    examples = []
    for evaluation, values in results.items():
        arrays = read_arrays(workdir, evaluation)
        for i in range(sum(key.startswith("original_") for key in arrays)):
            rows = {row: arrays[f"{row}_{i}"] for row in _ROWS}
            examples.append(Shown(evaluation, values["examples"][i]["name"], rows))
    return examples


def table(results: dict[str, dict[str, Any]], figures: Mapping[str, Figure]) -> str:
    """The evaluations as lines of text, a row each, and what was not scored for want of a network's weights."""
    scored = {key: figure for key, figure in figures.items() if any(key in values for values in results.values())}
    heads = ("examples", *(figure.title for figure in scored.values()), "codes used", "skipped")
    rows = [
        (
            str(values["num_examples"]),
            *(number(values.get(key), figure.decimals) for key, figure in scored.items()),
            f"{values['num_codes_used']}/{values['codebook_size']}",
            str(values["num_skipped"]),
        )
        for values in results.values()
    ]
    first = max(len(name) for name in results)
    widths = [max(len(cell) for cell in column) + 2 for column in zip(heads, *rows, strict=True)]
    lines = [
        f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in zip(("", *results), (heads, *rows), strict=True)
    ]
    lines += [
        f"without {figure.title}: it needs --config.{figure.needs}"
        for key, figure in figures.items()
        if key not in scored
    ]
    return "\n".join(lines)


def number(value: float | None, decimals: int) -> str:
    """As tables show it; a dash for a figure that nothing could be scored by."""
    return "-" if value is None else f"{value:.{decimals}f}"
