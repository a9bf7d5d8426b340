"""One HTML page of several runs: opens from disk, contains all it shows, requests nothing from elsewhere.

Its texts come from files and are escaped by the template; a content security policy keeps it from loading anything.
"""

from __future__ import annotations

import base64
import functools
import importlib.resources
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import matplotlib.figure
import numpy as np
import PIL.Image
import scipy.io.wavfile  # type: ignore[import-untyped]

from vpvae_jax import __version__
from vpvae_jax.modality import Metric
from vpvae_jax.reporting.collection import FinishedRun, Line, by_evaluation, lines
from vpvae_jax.reporting.drawings import draw_code_usage, draw_curves
from vpvae_jax.speech.waveform import SAMPLE_RATE

_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_TEMPLATE = "page.html.jinja"
_FULL_SCALE = 2**15 - 1
_DPI = 80
# What a page shows at most, so that browsers open it: 30 runs with pictures of 256 pixels are 30 MB an evaluation.
_MAX_EXAMPLES = 8  # of an evaluation
_MAX_SIDE = 768  # pixels
_MAX_SECONDS = 20


def page(runs: Sequence[FinishedRun]) -> str:
    """The page of at least one run, HTML text."""
    found = lines(runs)
    groups = by_evaluation(found)
    return _template().render(
        title="1 run" if len(runs) == 1 else f"{len(runs)} runs",
        policy=_POLICY,
        version=__version__,
        css=markupsafe.Markup(_asset("page.css")),  # ours: nothing in it comes from files of a run
        javascript=markupsafe.Markup(_asset("page.js")),
        tables=[_table(name, group, metrics) for name, (group, metrics) in groups.items()],
        example_sections=[section for name, (group, _) in groups.items() if (section := _examples(name, group))],
        usage=[_usage(line) for line in found],
        curves=_chart(draw_curves({run.name: run.log for run in runs}), "curves of training"),
        settings=[_settings(run) for run in runs],
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE)


def _table(name: str, group: Sequence[Line], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    titles = [metric.title for metric in metrics.values()]
    rows = []
    for line in group:
        counts = line.counts
        cells = [_cell(line.run.name), _cell(line.run.method), _cell(line.tokenizer)]
        cells.append(_cell(str(line.codebook_size), line.codebook_size))
        cells += [_cell(line.cell(key, metric), line.ours.get(key)) for key, metric in metrics.items()]
        cells.append(_cell(f"{counts['num_codes_used']}/{counts['codebook_size']}", counts["num_codes_used"]))
        cells += [_cell(str(counts[key]), counts[key]) for key in ("num_tokens", "num_examples", "num_skipped")]
        rows.append(cells)
    heads = ["run", "method", "tokenizer", "K", *titles, "codes used", "tokens", "examples", "skipped"]
    return {"title": name, "heads": heads, "rows": rows}


def _cell(text: str, value: float | None = None) -> dict[str, Any]:
    """A cell; it is sorted by `value` where there is one, by its text elsewhere."""
    return {"text": text, "value": None if value is None else float(value)}


def _examples(evaluation: str, lines: Sequence[Line]) -> dict[str, Any] | None:
    """Each example once: the original, then each reconstruction; another crop of it is another example."""
    groups: dict[tuple[str, bytes], list[tuple[str, np.ndarray]]] = {}
    for line in lines:
        for shown in line.run.evaluations[line.name].shown:
            original = shown.arrays["original"]
            group = groups.setdefault((shown.name, original.tobytes()), [("original", original)])
            group.append((_caption(line), shown.arrays["quantized"]))
    if not groups:
        return None
    first = list(groups.items())[:_MAX_EXAMPLES]
    return {
        "title": f"{evaluation}: reconstructions",
        "has_pictures": any(_is_picture(group[0][1]) for group in groups.values()),
        "groups": [
            {"name": name, "shown": [_medium(array, label) for label, array in group]} for (name, _), group in first
        ],
        "num_more": len(groups) - len(first),
    }


def _is_picture(array: np.ndarray) -> bool:
    return array.ndim == 3


def _medium(array: np.ndarray, label: str) -> dict[str, Any]:
    """A picture or a recording with a caption."""
    buffer = io.BytesIO()
    if _is_picture(array):
        image = PIL.Image.fromarray(array)
        if max(image.size) > _MAX_SIDE:
            label += f", {image.width} x {image.height} made smaller"
            image.thumbnail((_MAX_SIDE, _MAX_SIDE))
        image.save(buffer, "png")
        size = {"width": image.width, "height": image.height}
        return {"is_picture": True, "label": label, "source": _data_url("image/png", buffer), **size}
    if len(array) > _MAX_SECONDS * SAMPLE_RATE:
        label += f", the first {_MAX_SECONDS} s"
    array = array[: _MAX_SECONDS * SAMPLE_RATE]
    samples = np.round(np.clip(array, -1.0, 1.0) * _FULL_SCALE).astype(np.int16)
    scipy.io.wavfile.write(buffer, SAMPLE_RATE, samples)
    return {"is_picture": False, "label": label, "source": _data_url("audio/wav", buffer)}


def _caption(line: Line) -> str:
    """The run, with the tokenizer where it has several."""
    several = len({evaluation.tokenizer for evaluation in line.run.evaluations.values()}) > 1
    return f"{line.run.name}, {line.tokenizer}" if several else line.run.name


def _usage(line: Line) -> dict[str, str]:
    title = f"{_caption(line)}, {line.evaluation}"
    return _chart(draw_code_usage({title: line}), f"use of codes: {title}")


def _settings(run: FinishedRun) -> dict[str, Any]:
    machines = {
        ", ".join(f"{key} {value}" for key, value in evaluation.results["machine"].items())
        for evaluation in run.evaluations.values()
        if "machine" in evaluation.results
    }
    return {"name": run.name, "machines": sorted(machines), "config": json.dumps(run.config, indent=2)}


def _chart(chart: matplotlib.figure.Figure, label: str) -> dict[str, str]:
    buffer = io.BytesIO()
    chart.savefig(buffer, format="png", dpi=_DPI)
    return {"label": label, "source": _data_url("image/png", buffer)}


def _data_url(media_type: str, buffer: io.BytesIO) -> str:
    return f"data:{media_type};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _asset(name: str) -> str:
    return (importlib.resources.files("vpvae_jax.reporting") / name).read_text(encoding="utf-8")
