"""Reports: of one work directory, pictures, sounds and a page beside its checkpoints; of several, tables and a page.

python -m vpvae_jax.evaluation.report WORKDIR [WORKDIR ...] --output=DIR
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

from vpvae_jax import build
from vpvae_jax.errors import UserError
from vpvae_jax.evaluation.collection import lines, markdown, read_run, read_runs, table_csv
from vpvae_jax.evaluation.drawings import draw_code_usage, draw_curves
from vpvae_jax.evaluation.page import page

CURVES, CODE_USAGE, PAGE = "curves.png", "code_usage.png", "report.html"


def write_report(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Draw curves and code usage of a work directory and show what became of the examples that were kept.

    Returns:
        The paths written.

    Raises:
        CheckpointError: nothing was evaluated yet.
    """
    run = read_run(workdir)
    paths = build.modality_of(run.config).show(workdir, list(run.shown)) if run.shown else []
    usage = [
        (line.evaluation, run.counts[line.evaluation], run.results[line.evaluation]["cvu"]) for line in lines([run])
    ]
    figures = {CURVES: draw_curves({run.name: run.metrics}), CODE_USAGE: draw_code_usage(usage)}
    for name, figure in figures.items():
        figure.savefig(workdir / name, dpi=110)
    _write(workdir, {PAGE: page([run])})
    return [*paths, *(workdir / name for name in (*figures, PAGE))]


def write_reports(workdirs: Sequence[pathlib.Path], directory: pathlib.Path) -> list[pathlib.Path]:
    """Write `table.md`, `table.csv` and `report.html` of several runs, ours beside the paper's figures.

    Args:
        workdirs: of runs, in the order in which tables show them; those without results are named and left out.
        directory: made if need be.

    Returns:
        The paths written.

    Raises:
        UserError: no work directory that can be read, or one given twice.
    """
    runs, errors = read_runs(workdirs)
    for error in errors:
        print(f"left out: {error}", file=sys.stderr)
    contents = {"table.md": markdown(runs), "table.csv": table_csv(runs), PAGE: page(runs)}
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory, contents)
    return [directory / name for name in contents]


def _write(directory: pathlib.Path, contents: Mapping[str, str]) -> None:
    for name, content in contents.items():
        temporary = directory / f".{name}.tmp"
        temporary.write_text(content, encoding="utf-8", errors="backslashreplace")  # names of files may be any bytes
        os.replace(temporary, directory / name)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: see above."""
    parser = argparse.ArgumentParser("python -m vpvae_jax.evaluation.report", description="Runs side by side.")
    parser.add_argument("workdir", nargs="+", type=pathlib.Path, help="work directory of a run that was evaluated")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="gets table.md, table.csv and report.html")
    given = parser.parse_args(arguments)
    try:
        paths = write_reports(given.workdir, given.output)
    except (UserError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(*paths, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
