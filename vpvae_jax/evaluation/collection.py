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
    figures: Mapping[str, Figure]  # those that are scored, by key
    ours: Mapping[str, float | None]
    paper: Mapping[str, float]


def read_runs(workdirs: Sequence[pathlib.Path]) -> list[Run]:
    """The runs of work directories, in the order given.

    Raises:
        CheckpointError: one without an evaluation, or with a damaged one.
        ConfigError: two of one name.
    """
    names = [workdir.absolute().name for workdir in workdirs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)}: several work directories of this name, expected one of each")
    return [read_run(workdir) for workdir in workdirs]


def read_run(workdir: pathlib.Path) -> Run:
    """The run of a work directory.

    Raises:
        CheckpointError: no evaluation there, or a damaged one.
    """
    results = read_results(workdir)
    if not results:
        raise CheckpointError(f"{workdir / layout.EVAL} holds no evaluation: evaluate first (--mode=evaluate)")
    counts = {evaluation: read_arrays(workdir, evaluation)["counts"] for evaluation in results}
    shown = kept_examples(workdir, results)
    return Run(workdir.absolute().name, layout.read_config(workdir), results, counts, shown, read_metrics(workdir))


def lines(runs: Sequence[Run]) -> list[Line]:
    """Every evaluation of every run, the evaluations one after the other."""
    found = []
    for evaluation in sorted({evaluation for run in runs for evaluation in run.results}):
        for run in runs:
            if evaluation in run.results:
                results, known = run.results[evaluation], build.modality_of(run.config).figures
                figures = {key: figure for key, figure in known.items() if key in results}
                numbers = paper_numbers(run.config.quantizer.to_dict(), evaluation)
                found.append(Line(run, evaluation, figures, {key: results[key] for key in figures}, numbers))
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
            [line.run.name, line.run.config.quantizer.name, str(nominal_size(line.run.config.quantizer.to_dict()))]
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
        quantizer = line.run.config.quantizer.to_dict()
        for key in line.figures:
            values = (line.ours[key], line.paper.get(key))
            writer.writerow([line.run.name, quantizer["name"], nominal_size(quantizer), line.evaluation, key, *values])
    return file.getvalue()
