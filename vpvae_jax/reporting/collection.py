"""Any number of runs side by side, as tables, with the paper's numbers."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vpvae_jax.config import workdir as layout
from vpvae_jax.config.schema import MODALITIES
from vpvae_jax.evaluation.records import Evaluation, read_evaluations
from vpvae_jax.modality import Metric, Modality, columns
from vpvae_jax.reporting import tables
from vpvae_jax.reporting.paper_numbers import nominal_size, paper_numbers
from vpvae_jax.runtime.errors import CheckpointError, ConfigError
from vpvae_jax.tokenizer import storage
from vpvae_jax.training.metric_log import read_metrics

CSV_COLUMNS = ("run", "method", "tokenizer", "codebook_size", "evaluation", "metric", "ours", "paper")
_DIGITS = 8  # of a digest in a title
_COUNTS = ("num_codes_used", "codebook_size", "num_tokens", "num_examples", "num_skipped")


class FinishedRun(NamedTuple):
    """A finished run, read from its work directory."""

    name: str  # of the directory
    config: Mapping[str, Any]  # of the training, nested
    modality: Modality
    evaluations: Mapping[str, Evaluation]  # by the name of their files
    stale: frozenset[str]  # names of those of a tokenizer that is older than the newest, gone or replaced
    log: Sequence[Mapping[str, float]]  # lines of metrics.jsonl

    @property
    def method(self) -> str:
        """Name of the quantizer."""
        return self.config["quantizer"]["name"]


class Line(NamedTuple):
    """A run in one evaluation: a line of a table."""

    run: FinishedRun
    name: str  # of the evaluation
    evaluation: str  # its title, the same for evaluations that can be compared: `photos-test, 2 x 256px`
    tokenizer: str  # its name, and whether the evaluation is stale
    codebook_size: int  # K as the paper calls it
    metrics: Mapping[str, Metric]  # those that are scored, by key
    ours: Mapping[str, float | None]
    paper: Mapping[str, float]
    cvu_ceiling: float
    counts: Mapping[str, int]  # of codes, tokens and examples

    def cell(self, key: str, metric: Metric) -> str:
        """A metric as tables show it, the paper's number in brackets."""
        text = tables.score(metric, self.ours.get(key), self.cvu_ceiling)
        return text + (f" ({self.paper[key]:.{metric.decimals}f})" if key in self.paper else "")


def read_runs(workdirs: Sequence[pathlib.Path]) -> tuple[list[FinishedRun], list[CheckpointError]]:
    """Read the runs of work directories.

    Args:
        workdirs: in the order in which tables show them.

    Returns:
        The runs, called by the name of their directory, with its parents' where names would be equal, and an error for
        each directory that cannot be read.

    Raises:
        ConfigError: a directory is given twice.
        CheckpointError: none can be read.
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
        raise errors[0] if errors else ConfigError("no work directory is given: expected at least one")
    return runs, errors


def read_run(workdir: pathlib.Path) -> FinishedRun:
    """Read the run of a work directory.

    Raises:
        CheckpointError: no evaluation there, or a damaged one.
    """
    try:
        evaluations = read_evaluations(workdir)
        config = layout.read_config(workdir)
        modality = MODALITIES[config.model.name](config.data, config.model, config.loss, config.eval)
        stale = frozenset(_stale(workdir, evaluations))
        log = read_metrics(workdir)
        run = FinishedRun(workdir.absolute().name, config.to_dict(), modality, evaluations, stale, log)
        lines([run])  # fails here if a table would lack something
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"{workdir} is not a work directory of vpvae_jax, or is damaged ({error!r}): train or evaluate again"
        ) from error
    return run


def _stale(workdir: pathlib.Path, evaluations: Mapping[str, Evaluation]) -> Iterator[str]:
    newest = max((evaluation.results["step"] for evaluation in evaluations.values()), default=0)
    for name, evaluation in evaluations.items():
        digest = storage.sha256(workdir / layout.TOKENIZERS / evaluation.tokenizer)
        if evaluation.results["step"] < newest or evaluation.results["tokenizer"]["sha256"] != digest:
            yield name


def lines(runs: Sequence[FinishedRun]) -> list[Line]:
    """Every evaluation of every run, those of the same data and size side by side."""
    titles = _titles({evaluation.subject for run in runs for evaluation in run.evaluations.values()})
    found = [
        _line(run, name, titles[evaluation.subject]) for run in runs for name, evaluation in run.evaluations.items()
    ]
    return sorted(found, key=lambda line: line.evaluation)


def _titles(subjects: set[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """A title for each subject: no more than what tells it from the others."""
    titles = {}
    for data, size, digest in subjects:
        same_data = [subject for subject in subjects if subject[0] == data]
        same_size = [subject for subject in same_data if subject[1] == size]
        title = f"{data}, {size}" if len(same_data) > len(same_size) else data
        titles[data, size, digest] = f"{title}, {digest[:_DIGITS]}" if len(same_size) > 1 else title
    return titles


def _line(run: FinishedRun, name: str, title: str) -> Line:
    evaluation = run.evaluations[name]
    results, quantizer = evaluation.results, run.config["quantizer"]
    metrics = {key: metric for key, metric in columns(run.modality.metrics).items() if key in results}
    ours = {key: None if results[key] is None else float(results[key]) for key in metrics}
    size = nominal_size(quantizer, int(results["codebook_size"]))
    paper = paper_numbers(quantizer, size, evaluation.data, results.get("config", run.config)["data"])
    counts = {key: int(results[key]) for key in _COUNTS}
    tokenizer = f"{evaluation.tokenizer} (stale)" if name in run.stale else evaluation.tokenizer
    return Line(run, name, title, tokenizer, size, metrics, ours, paper, float(results["cvu_ceiling"]), counts)


def by_evaluation(found: Sequence[Line]) -> dict[str, tuple[list[Line], dict[str, Metric]]]:
    """The lines of each evaluation, and the metrics by key that at least one of them has."""
    groups: dict[str, tuple[list[Line], dict[str, Metric]]] = {}
    for line in found:
        group, metrics = groups.setdefault(line.evaluation, ([], {}))
        group.append(line)
        metrics |= line.metrics
    return groups


def markdown(runs: Sequence[FinishedRun]) -> str:
    """A table for each evaluation: a line a run, a column a metric, the paper's number in brackets."""
    parts = []
    for name, (group, metrics) in by_evaluation(lines(runs)).items():
        heads = ["run", "method", "tokenizer", "K", *(metric.title for metric in metrics.values()), "tokens"]
        rows = [
            [line.run.name, line.run.method, line.tokenizer, str(line.codebook_size)]
            + [line.cell(key, metric) for key, metric in metrics.items()]
            + [str(line.counts["num_tokens"])]
            for line in group
        ]
        parts.append(f"### {tables.markdown_text(name)}\n\n{tables.markdown(heads, rows)}")
    return "\n".join(parts) + "\nIn brackets: arXiv 2602.17133.\n"


def table_csv(runs: Sequence[FinishedRun]) -> str:
    """`CSV_COLUMNS`, a line a metric; empty where there is no number."""
    rows: list[tuple[Any, ...]] = []
    for line in lines(runs):
        start = (line.run.name, line.run.method, line.tokenizer, line.codebook_size, line.evaluation)
        rows += [(*start, key, line.ours[key], line.paper.get(key)) for key in line.metrics]
        rows.append((*start, "cvu_ceiling", line.cvu_ceiling, None))
    return tables.comma_separated(CSV_COLUMNS, rows)
