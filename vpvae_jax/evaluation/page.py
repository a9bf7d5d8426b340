"""One HTML page of several runs: opens from disk, holds all it shows, asks for nothing from elsewhere.

What it says comes from files and is escaped; a content security policy keeps it from loading anything.
"""

from __future__ import annotations

import base64
import html
import importlib.resources
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.figure
import numpy as np
import PIL.Image
import scipy.io.wavfile  # type: ignore[import-untyped]

from vpvae_jax import __version__
from vpvae_jax.evaluation.collection import Line, Run, lines
from vpvae_jax.evaluation.drawings import draw_code_usage, draw_curves
from vpvae_jax.evaluation.results import number
from vpvae_jax.waveform import SAMPLE_RATE

_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_FULL_SCALE = 2**15 - 1
_DPI = 80
# What a page shows at most, so that browsers open it: 30 runs with pictures of 256 pixels are 30 MB an evaluation.
_MAX_EXAMPLES = 8  # of an evaluation
_MAX_SIDE = 768  # pixels
_MAX_SECONDS = 20


def page(runs: Sequence[Run]) -> str:
    """The page, HTML text."""
    found = lines(runs)
    evaluations = list(dict.fromkeys(line.evaluation for line in found))
    title = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    sections = [
        *(_table(evaluation, [line for line in found if line.evaluation == evaluation]) for evaluation in evaluations),
        *(_examples(evaluation, runs) for evaluation in evaluations),
        _section("Use of codes", (_usage(line) for line in found)),
        _section("Training", [_picture(draw_curves({run.name: run.metrics for run in runs}), "curves of training")]),
        _section("Settings", (_settings(run) for run in runs)),
    ]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vpvae_jax: {title}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<h1>{title}</h1>
<p>vpvae_jax {html.escape(__version__)}. A click on a column's head sorts. In brackets: arXiv 2602.17133.</p>
{"".join(sections)}
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _table(evaluation: str, group: list[Line]) -> str:
    figures = {key: figure for line in group for key, figure in line.figures.items()}
    heads = ["run", "method", "K", *(figure.title for figure in figures.values()), "codes used", "examples", "skipped"]
    body = []
    for line in group:
        size = line.codebook_size
        cells = [_td(line.run.name), _td(line.run.config.quantizer.name), _td(str(size), size)]
        for key, figure in figures.items():
            paper = f" ({line.paper[key]:.{figure.decimals}f})" if key in line.paper else ""
            cells.append(_td(number(line.ours.get(key), figure.decimals) + paper, line.ours.get(key)))
        used, examples, skipped = (line.about[key] for key in ("num_codes_used", "num_examples", "num_skipped"))
        cells.append(_td(f"{used}/{line.about['codebook_size']}", used))
        cells += [_td(str(examples), examples), _td(str(skipped), skipped)]
        body.append(f"<tr>{''.join(cells)}</tr>")
    row = "".join(f'<th scope="col"><button>{html.escape(head)}</button></th>' for head in heads)
    table = f'<table class="sortable"><thead><tr>{row}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return _section(evaluation, [table])


def _td(text: str, value: float | None = None) -> str:
    """A cell; `value` is what sorting goes by, where it is not the text."""
    attribute = "" if value is None else f' data-value="{float(value)}"'
    return f"<td{attribute}>{html.escape(text)}</td>"


def _examples(evaluation: str, runs: Sequence[Run]) -> str:
    """Each example once: the original, then what each run made of it; another crop of it is another example."""
    groups: dict[tuple[str, bytes], list[tuple[str, np.ndarray]]] = {}
    for run in runs:
        for shown in run.shown:
            if shown.evaluation == evaluation:
                original = shown.arrays["original"]
                group = groups.setdefault((shown.name, original.tobytes()), [("original", original)])
                group.append((run.name, shown.arrays["quantized"]))
    parts = []
    if any(_is_image(group[0][1]) for group in groups.values()):
        parts.append("<p>Point at a picture: all of its row are magnified there. The wheel changes how much.</p>")
    for (name, _), group in list(groups.items())[:_MAX_EXAMPLES]:
        media = "".join(_medium(array, label) for label, array in group)
        parts.append(f'<h3>{html.escape(name)}</h3><div class="group">{media}</div>')
    if len(groups) > _MAX_EXAMPLES:
        parts.append(f"<p>{len(groups) - _MAX_EXAMPLES} more are in the work directories.</p>")
    return _section(f"{evaluation}: reconstructions", parts) if groups else ""


def _is_image(array: np.ndarray) -> bool:
    return array.ndim == 3


def _medium(array: np.ndarray, label: str) -> str:
    """A picture or a player with a caption."""
    buffer = io.BytesIO()
    if _is_image(array):
        image = PIL.Image.fromarray(array)
        if max(image.size) > _MAX_SIDE:
            label += f", {image.width} x {image.height} made smaller"
            image.thumbnail((_MAX_SIDE, _MAX_SIDE))
        image.save(buffer, "png")
        caption, (width, height) = f"<figcaption>{html.escape(label)}</figcaption>", image.size
        source = f'src="data:image/png;base64,{_base64(buffer)}" width="{width}" height="{height}"'
        return f'<figure><div class="lens"><img alt="{html.escape(label)}" {source}></div>{caption}</figure>'
    if len(array) > _MAX_SECONDS * SAMPLE_RATE:
        label += f", the first {_MAX_SECONDS} s"
    array = array[: _MAX_SECONDS * SAMPLE_RATE]
    samples = np.round(np.clip(array, -1.0, 1.0) * _FULL_SCALE).astype(np.int16)
    caption = f"<figcaption>{html.escape(label)}</figcaption>"
    scipy.io.wavfile.write(buffer, SAMPLE_RATE, samples)
    return f'<figure><audio controls src="data:audio/wav;base64,{_base64(buffer)}"></audio>{caption}</figure>'


def _usage(line: Line) -> str:
    title = f"{line.run.name}, {line.evaluation}"
    usage = (title, line.run.counts[line.evaluation], line.run.results[line.evaluation]["cvu"])
    return _picture(draw_code_usage([usage]), f"use of codes: {title}")


def _settings(run: Run) -> str:
    machines = {_machine_text(results["machine"]) for results in run.results.values() if "machine" in results}
    machine = "".join(f"<p>Evaluated on {html.escape(text)}.</p>" for text in sorted(machines))
    config = f"<pre>{html.escape(json.dumps(run.config.to_dict(), indent=2))}</pre>"
    return f"<details><summary>{html.escape(run.name)}</summary>{machine}{config}</details>"


def _machine_text(machine: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in machine.items())


def _section(title: str, parts: Iterable[str]) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>\n"


def _picture(figure: matplotlib.figure.Figure, label: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return f'<img class="chart" alt="{html.escape(label)}" src="data:image/png;base64,{_base64(buffer)}">'


def _base64(buffer: io.BytesIO) -> str:
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _asset(name: str) -> str:
    return (importlib.resources.files("vpvae_jax.evaluation") / name).read_text(encoding="utf-8")
