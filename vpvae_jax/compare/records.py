"""The record of a comparison: CSV files of the runs that are done and their metrics."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from vpvae_jax.reporting.tables import comma_separated
from vpvae_jax.runtime.errors import CheckpointError
from vpvae_jax.runtime.files import write_text

# File and columns that identify a row in it.
TABLES = {
    "runs": ("method", "codebook_size", "seed"),
    "curves": ("method", "codebook_size", "seed", "step"),
    "refits": ("method", "codebook_size", "seed", "num_codes"),
}
_TEXT = ("method", "quantizer", "settings")
_DECIMALS = 4
Row = dict[str, Any]


def read(directory: pathlib.Path, table: str) -> list[Row]:
    """Read the rows of one of `TABLES`, none if there is no file.

    Raises:
        CheckpointError: a damaged file.
    """
    path = directory / f"{table}.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return [{key: value if key in _TEXT else _number(value) for key, value in row.items()} for row in rows]
    except (AttributeError, TypeError, ValueError) as error:  # the first two: a row too short or too long
        raise CheckpointError(f"{path} is damaged ({error}): restore it, or move it away to start again") from error


def record(directory: pathlib.Path, table: str, run: Sequence[Any], new: Iterable[Row]) -> None:
    """Replace all rows of a run; the file is either the old or the new one at any moment.

    Args:
        directory: of the tables.
        table: one of `TABLES`.
        run: method, codebook size and seed.
        new: the rows.

    Raises:
        CheckpointError: rows with other columns than those in the file, which stays as it is.
    """
    old = read(directory, table)
    rows = [row for row in old if _identity("runs", row) != tuple(run)] + list(new)
    if rows == old:
        return
    rows.sort(key=lambda row: _identity(table, row))
    path = directory / f"{table}.csv"
    for row in rows:
        if row.keys() != rows[0].keys():
            raise CheckpointError(
                f"{path} has other columns than the run that just ended ({_difference(row, rows[0])}): "
                f"move it away to start again"
            )
    heads = list((rows or old)[0])
    cells = [[_rounded(row[head]) for head in heads] for row in rows]
    directory.mkdir(parents=True, exist_ok=True)
    write_text(path, comma_separated(heads, cells))


def _rounded(value: Any) -> Any:
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _difference(row: Row, other: Row) -> str:
    return ", ".join(sorted(row.keys() ^ other.keys()))


def _identity(table: str, row: Row) -> tuple:
    return tuple(row[column] for column in TABLES[table])


def _number(text: str) -> int | float | None:
    if text == "":
        return None  # a metric that could score no example
    return int(text) if text.lstrip("-").isdigit() else float(text)
