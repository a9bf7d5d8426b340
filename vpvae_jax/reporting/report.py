"""Reports: of one work directory, pictures, sounds and a page in it; of several, tables and a page side by side."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from vpvae_jax.config import workdir as layout
from vpvae_jax.reporting.collection import lines, markdown, read_run, read_runs, table_csv
from vpvae_jax.reporting.drawings import draw_code_usage, draw_curves
from vpvae_jax.reporting.page import page
from vpvae_jax.reporting.tables import results_table
from vpvae_jax.runtime.console import visible
from vpvae_jax.runtime.files import write_text

CURVES, CODE_USAGE, PAGE = "curves.png", "code_usage.png", "report.html"
_DPI = 110


def write_report(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Write the report of one work directory into it: the kept examples, charts and a page.

    Args:
        workdir: of a run that was evaluated.

    Returns:
        The paths written.

    Raises:
        CheckpointError: nothing was evaluated yet, or a damaged file.
    """
    run = read_run(workdir)
    current = layout.current_tokenizer(workdir)
    of_current = {name: each for name, each in run.evaluations.items() if each.tokenizer == current}
    shown = [example for evaluation in (of_current or run.evaluations).values() for example in evaluation.shown]
    paths = run.modality.show(workdir, shown) if shown else []
    charts = {
        CURVES: draw_curves({run.name: run.log}),
        CODE_USAGE: draw_code_usage({f"{line.evaluation}, {line.tokenizer}": line for line in lines([run])}),
    }
    for name, chart in charts.items():
        chart.savefig(workdir / name, dpi=_DPI)
    write_text(workdir / PAGE, page([run]))
    return [*paths, *(workdir / name for name in (*charts, PAGE))]


def print_summary(workdir: pathlib.Path) -> None:
    """Print the evaluations of a work directory as a table.

    Raises:
        CheckpointError: nothing was evaluated yet, or a damaged file.
    """
    run = read_run(workdir)
    results = {(line.evaluation, line.tokenizer): run.evaluations[line.name].results for line in lines([run])}
    print(f"\n{results_table(results, run.modality.metrics)}\n")


def write_reports(workdirs: Sequence[pathlib.Path], directory: pathlib.Path) -> list[pathlib.Path]:
    """Write `table.md`, `table.csv` and `report.html` of several runs, with the paper's numbers in brackets.

    Args:
        workdirs: of runs, in the order in which tables show them; those without results are named and left out.
        directory: created if it does not exist.

    Returns:
        The paths written.

    Raises:
        UserError: no work directory that can be read, or one that is given twice.
    """
    runs, errors = read_runs(workdirs)
    for error in errors:
        print(visible(f"left out: {error}"), file=sys.stderr)
    contents = {"table.md": markdown(runs), "table.csv": table_csv(runs), PAGE: page(runs)}
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_text(directory / name, content)
    return [directory / name for name in contents]
