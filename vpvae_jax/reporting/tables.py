"""The formatter of all tables: Markdown, aligned text, CSV, and the cells that they share."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vpvae_jax.modality import CVU, Metric, columns
from vpvae_jax.runtime.console import visible

# Characters that would make a cell more than text: the end of a cell, tags, links, code, emphasis.
_MARKDOWN = re.compile(r"([\\`*\[\]<>|&~])")
_GAP = 2  # spaces between columns of aligned text


def number(value: float | None, decimals: int) -> str:
    """A number as tables show it; a dash for a metric that could score nothing."""
    return "-" if value is None else f"{value:.{decimals}f}"


def mean_and_deviation(scores: Iterable[float | None], decimals: int) -> str:
    """Mean ± standard deviation of a sample (n - 1); a single score has no deviation, None is left out."""
    values = [score for score in scores if score is not None]
    if len(values) < 2:
        return number(values[0] if values else None, decimals)
    return f"{np.mean(values):.{decimals}f} ± {np.std(values, ddof=1):.{decimals}f}"


def score(metric: Metric, value: float | None, cvu_ceiling: float) -> str:
    """A metric's value; CVU with the value that equal use of all codes is expected to reach."""
    text = number(value, metric.decimals)
    return with_equal_use(text, cvu_ceiling) if metric.key == CVU.key else text


def with_equal_use(text: str, ceiling: float) -> str:
    """A CVU with the value that equal use of all codes is expected to reach; see `codebooks.usage.cvu_ceiling`."""
    return f"{text} (equal use {number(ceiling, CVU.decimals)})"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in GitHub's Markdown; cells are text, whatever characters they hold."""
    lines = [_markdown_row(heads), _row(["---"] * len(heads)), *map(_markdown_row, rows)]
    return "\n".join(lines) + "\n"


def markdown_text(text: str) -> str:
    """A text as Markdown shows it literally, on one line."""
    return visible(_MARKDOWN.sub(r"\\\1", text))


def aligned(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of text for a terminal: the first column to the left, the others to the right."""
    table = [[visible(cell) for cell in cells] for cells in (heads, *rows)]
    first, *widths = (max(map(len, column)) for column in zip(*table, strict=True))
    lines = [
        f"{name:<{first}}" + "".join(f"{cell:>{width + _GAP}}" for cell, width in zip(cells, widths, strict=True))
        for name, *cells in table
    ]
    return "\n".join(lines)


def comma_separated(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV with a line of heads; None is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for cells in (heads, *rows):
        writer.writerow([visible(cell) if isinstance(cell, str) else cell for cell in cells])
    return file.getvalue()


def results_table(results: Mapping[tuple[str, str], Mapping[str, Any]], metrics: tuple[Metric, ...]) -> str:
    """The evaluations of a run as aligned text, a row each, and which metrics lack the weights of their network.

    Args:
        results: at least one, by evaluation and tokenizer; see `evaluation.records.Evaluation`.
        metrics: of the modality.
    """
    shown = columns(metrics)
    scored = {key: metric for key, metric in shown.items() if any(key in values for values in results.values())}
    heads = (
        "",
        "tokenizer",
        "examples",
        "tokens",
        *(metric.title for metric in scored.values()),
        "codes used",
        "skipped",
    )
    rows = [
        (
            name,
            tokenizer,
            str(values["num_examples"]),
            str(values["num_tokens"]),
            *(score(metric, values.get(key), values["cvu_ceiling"]) for key, metric in scored.items()),
            f"{values['num_codes_used']}/{values['codebook_size']}",
            str(values["num_skipped"]),
        )
        for (name, tokenizer), values in results.items()
    ]
    lacking = [
        f"without {metric.title}: it needs --config.eval.{metric.needs}"
        for metric in metrics
        if metric.needs and metric.key not in scored
    ]
    return "\n".join([aligned(heads, rows), *lacking])


def _markdown_row(cells: Sequence[str]) -> str:
    return _row([markdown_text(cell) for cell in cells])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
