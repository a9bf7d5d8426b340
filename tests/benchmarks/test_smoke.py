"""Every benchmark in its smoke mode: each module of `benchmarks/` that is no helper must have one."""

import contextlib
import functools
import importlib
import io
import json

import pytest

from benchmarks import charts, scaling
from tests import tiny

HELPERS = {"__init__", "collectives", "reporting", "smoke", "torch_twin"}
SLOW = {"image_sizes", "kmeans", "memory", "perturb", "scaling", "train_step"}
PEERS = {"kmeans": ("sklearn", "torch"), "train_step": ("torch",)}  # of the extra `benchmark`
BENCHMARKS = [
    pytest.param(path.stem, marks=[pytest.mark.system] * (path.stem in SLOW))
    for path in sorted((tiny.ROOT / "benchmarks").glob("*.py"))
    if path.stem not in HELPERS
]


@pytest.fixture(scope="module")
def smoke_lines(data_dir):
    """A function from the name of a benchmark to the lines of its smoke run; each runs once."""

    @functools.cache
    def run(name):
        for peer in PEERS.get(name, ()):
            pytest.importorskip(peer, reason="needs the extra `benchmark`")
        module = importlib.import_module(f"benchmarks.{name}")
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            patch.setenv("TFDS_DATA_DIR", str(data_dir))
            assert module.main(["--smoke"]) == 0
        return printed.getvalue().splitlines()

    return run


def _results():
    return {path: path.stat().st_mtime_ns for path in (tiny.ROOT / "results").rglob("*")}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_smoke(name, smoke_lines):
    before = _results()
    lines = smoke_lines(name)
    assert lines
    assert _results() == before, "a smoke run wrote into results/"
    if name != "charts":
        assert all({"what", "machine", "jax_version", "date"} <= json.loads(line).keys() for line in lines)


@pytest.mark.system
def test_both_peers_of_the_sampler_are_measured(smoke_lines):
    pytest.importorskip("torch", reason="needs the extra `benchmark`")
    (line,) = [json.loads(line) for line in smoke_lines("perturb") if "latents_per_second" in line]
    for peer, ratio in (("peer", "ratio"), ("scipy", "ratio_to_scipy")):
        expected = line["latents_per_second"] / line[f"{peer}_latents_per_second"]
        assert line[ratio] == pytest.approx(expected, rel=1e-3)


@pytest.mark.system
def test_what_is_measured_can_be_drawn(smoke_lines, tmp_path):
    for name in ("perturb", "kmeans", "train_step"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(smoke_lines(name)))
    assert charts.main(["--directory", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.system
def test_what_is_estimated_becomes_a_table(smoke_lines):
    table = scaling.table([json.loads(line) for line in smoke_lines("scaling")])
    assert "\n| 2 | float32 | 8 |" in table
