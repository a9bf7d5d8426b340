"""The form of every line of a benchmark: rounded numbers, and what they depend on besides the code."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable

import jax


def write(line: dict[str, object]) -> None:
    """Print one line of JSON: numbers to 4 digits, then machine, versions and date."""
    print(json.dumps(_rounded(line) | environment()), flush=True)


def environment() -> dict[str, object]:
    """Return machine, versions and date."""
    return {
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores",
        "jax_version": jax.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def timed(function: Callable[[], object]) -> tuple[float, object]:
    """Measure the seconds that a call takes; return them and its result."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def peak_memory(function: Callable[[], object]) -> float:
    """Measure by how many MiB the memory of this process rises at most while a call runs; NaN without /proc."""
    reset = pathlib.Path("/proc/self/clear_refs")
    if not reset.exists():
        return float("nan")
    reset.write_text("5")  # the high-water mark starts from here
    before = _status("VmRSS")
    jax.block_until_ready(function())
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _cpu_model() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
