"""Any number of runs side by side, as tables, with the paper's figures."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from vpvae_jax import build
from vpvae_jax import workdir as layout
from vpvae_jax.errors import CheckpointError, ConfigError
from vpvae_jax.evaluation.paper_numbers import nominal_size, paper_numbers
from vpvae_jax.evaluation.results import kept_examples, number, read_arrays, read_results
from vpvae_jax.scoring.base import Figure, Shown
from vpvae_jax.training.metric_log import read_metrics

COLUMNS = ("run", "method", "codebook_size", "evaluation", "figure", "ours", "paper")


class Run(NamedTuple):
    """What a work directory holds of a finished run."""

    name: str  # of the directory
    config: ml_collections.ConfigDict
    results: Mapping[str, Mapping[str, Any]]  # by evaluation
    counts: Mapping[str, np.ndarray]  # uses of each code, by evaluation
    shown: Sequence[Shown]
    metrics: Sequence[Mapping[str, float]]  # lines of the training's log


class Line(NamedTuple):
    """A run in one evaluation: a line of a table."""

    run: Run
    evaluation: str
    codebook_size: int  # K as the paper calls it
    figures: Mapping[str, Figure]  # those that are scored, by key
    ours: Mapping[str, float | None]
    paper: Mapping[str, float]
    about: Mapping[str, int]  # counts of codes and examples


def read_runs(workdirs: Sequence[pathlib.Path]) -> tuple[list[Run], list[CheckpointError]]:
    """The runs of work directories, in the order given, and why the others cannot be read.

    A run is called as its directory, with those above it where names would be alike.

    Raises:
        ConfigError: a directory given twice.
        CheckpointError: no run at all.
    """
    absolute = list(dict.fromkeys(workdir.absolute() for workdir in workdirs))
    if len(absolute) < len(workdirs):
        raise ConfigError("a work directory is given twice: give each once")
    depth = 1
    while len({workdir.parts[-depth:] for workdir in absolute}) < len(absolute):
        depth += 1
    runs, errors = [], []
    for workdir in absolute:
        try:
            runs.append(read_run(workdir)._replace(name="/".join(workdir.parts[-depth:])))
        except CheckpointError as error:
            errors.append(error)
    if not runs:
        raise errors[0]
    return runs, errors


def read_run(workdir: pathlib.Path) -> Run:
    """The run of a work directory.

    Raises:
        CheckpointError: no evaluation there, or a damaged one.
    """
    try:
        results = read_results(workdir)
        if not results:
            raise CheckpointError(f"{workdir / layout.EVAL} holds no evaluation: evaluate first (--mode=evaluate)")
        counts = {evaluation: read_arrays(workdir, evaluation)["counts"] for evaluation in results}
        shown = kept_examples(workdir, results)
        run = Run(workdir.absolute().name, layout.read_config(workdir), results, counts, shown, read_metrics(workdir))
        lines([run])  # whether all is there that tables show
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"{workdir} is no work directory of ours, or damaged ({error!r}): train or evaluate anew"
        ) from error
    return run


def lines(runs: Sequence[Run]) -> list[Line]:
    """Every evaluation of every run, the evaluations one after the other."""
    found = []
    for evaluation in sorted({evaluation for run in runs for evaluation in run.results}):
        for run in runs:
            if evaluation in run.results:
                results, known = run.results[evaluation], build.modality_of(run.config).figures
                figures = {key: figure for key, figure in known.items() if key in results}
                ours = {key: None if results[key] is None else float(results[key]) for key in figures}
                size = nominal_size(run.config.quantizer.to_dict(), int(results["codebook_size"]))
                data = results.get("config", run.config.to_dict())["data"]
                numbers = paper_numbers(run.config.quantizer.to_dict(), size, evaluation, data)
                about = {
                    key: int(results[key]) for key in ("num_codes_used", "codebook_size", "num_examples", "num_skipped")
                }
                found.append(Line(run, evaluation, size, figures, ours, numbers, about))
    return found


def markdown(runs: Sequence[Run]) -> str:
    """A table an evaluation: a line a run, a column a figure of merit, the paper's figure in brackets."""
    tables = []
    found = lines(runs)
    for evaluation in dict.fromkeys(line.evaluation for line in found):
        group = [line for line in found if line.evaluation == evaluation]
        figures = {key: figure for line in group for key, figure in line.figures.items()}
        heads = ["run", "method", "K", *(figure.title for figure in figures.values())]
        rows = [
            [line.run.name.replace("|", r"\|"), line.run.config.quantizer.name, str(line.codebook_size)]
            + [_cell(line, key, figure) for key, figure in figures.items()]
            for line in group
        ]
        table = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
        tables.append(f"### {evaluation}\n\n" + "\n".join(table) + "\n")
    return "\n".join(tables) + "\nIn brackets: arXiv 2602.17133.\n"


def _cell(line: Line, key: str, figure: Figure) -> str:
    cell = number(line.ours.get(key), figure.decimals)
    return cell + (f" ({line.paper[key]:.{figure.decimals}f})" if key in line.paper else "")


def table_csv(runs: Sequence[Run]) -> str:
    """`COLUMNS`, a line a figure of merit; empty where there is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines(runs):
        method = line.run.config.quantizer.name
        for key in line.figures:
            values = (line.ours[key], line.paper.get(key))
            writer.writerow([line.run.name, method, line.codebook_size, line.evaluation, key, *values])
    return file.getvalue()
