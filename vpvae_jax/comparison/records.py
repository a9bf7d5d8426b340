"""The record of a comparison: CSV files that say which runs are done and what came out."""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from vpvae_jax.errors import CheckpointError

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
    """Rows of one of `TABLES`, none if there is no file.

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
        raise CheckpointError(f"{path} is damaged ({error}): restore it, or move it away to start anew") from error


def record(directory: pathlib.Path, table: str, run: Sequence[Any], new: Iterable[Row]) -> None:
    """Set the rows of a run, in place of all that it had; the file is the old or the new one at any moment.

    Args:
        directory: where the tables lie.
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
                f"move it away to start anew"
            )
    temporary = directory / f".{table}.csv.tmp"
    directory.mkdir(parents=True, exist_ok=True)
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list((rows or old)[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, _DECIMALS) if isinstance(v, float) else v for k, v in row.items()})
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _difference(row: Row, other: Row) -> str:
    return ", ".join(sorted(row.keys() ^ other.keys()))


def _identity(table: str, row: Row) -> tuple:
    return tuple(row[column] for column in TABLES[table])


def _number(text: str) -> int | float | None:
    if text == "":
        return None  # a figure that no example could be scored by
    return int(text) if text.lstrip("-").isdigit() else float(text)
