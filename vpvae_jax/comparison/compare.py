"""Do the runs of a comparison that are not recorded yet, then write its tables and figures."""

from __future__ import annotations

import fcntl
import pathlib
import time
from typing import IO

import ml_collections

from vpvae_jax import build
from vpvae_jax.comparison import grid, records, report
from vpvae_jax.errors import ConfigError, UserError

_LOCK = ".lock"


def compare(
    comparison: ml_collections.ConfigDict,
    results: pathlib.Path,
    workdir: pathlib.Path,
    *,
    num_jobs: int = 1,
    report_only: bool = False,
) -> None:
    """Do the runs of a comparison that are not recorded yet, then write tables and figures.

    Args:
        comparison: see `configs/comparisons/`.
        results: gets CSV files, `table.md` and figures.
        workdir: gets a work directory a run.
        num_jobs: runs at a time.
        report_only: leave the runs.

    Raises:
        UserError: what a user can mend; recorded runs stay.
    """
    grid.check_comparison(comparison)
    runs = grid.list_runs(comparison)
    configs = [grid.run_config(comparison, run) for run in runs]
    foreign = sorted({_name(row) for row in records.read(results, "runs")} - {run.name for run in runs})
    if foreign:
        raise ConfigError(
            f"{results / 'runs.csv'} records {', '.join(foreign)}, no run of this comparison: choose another --results"
        )
    recorded = {_name(row): row for row in records.read(results, "runs")}
    with_curve = {_name(row) for row in records.read(results, "curves")}
    refitted = {(_name(row), row["num_codes"]) for row in records.read(results, "refits")}
    todo = []
    for run, config in zip(runs, configs, strict=True):
        row = recorded.get(run.name)
        if row is None:
            todo.append(run)
            continue
        lacks_curve = grid.has_curve(comparison, run) and run.name not in with_curve
        if row["settings"] != grid.settings_hash(config):
            problem = "with other settings"
        elif lacks_curve or any((run.name, size) not in refitted for size in grid.refit_sizes(comparison, run)):
            problem = "without the curve or the refits that are asked for now"
        else:
            continue
        raise ConfigError(
            f"{results / 'runs.csv'} records {run.name} {problem}: choose another --results and --workdir, "
            f"or delete its row and {workdir / run.name} to train it anew"
        )
    failures = {}
    if todo and not report_only:
        build.check_data(configs[0])
        results.mkdir(parents=True, exist_ok=True)
        workdir.mkdir(parents=True, exist_ok=True)
        locks = [_lock(directory) for directory in (results, workdir)]
        started = time.monotonic()
        for number, (run, outcome) in enumerate(grid.do_runs(comparison, todo, workdir, num_jobs), start=1):
            minutes = (time.monotonic() - started) / 60
            if isinstance(outcome, UserError):
                failures[run.name] = outcome
                print(f"{number}/{len(todo)} {run.name}: {outcome}", flush=True)
                continue
            for table in ("curves", "refits", "runs"):  # the last says that the run is done
                records.add(results, table, getattr(outcome, table))
            left = minutes / number * (len(todo) - number)
            print(f"{number}/{len(todo)} {run.name} after {minutes:.0f} min, about {left:.0f} min left", flush=True)
        for lock in locks:
            lock.close()
    failure = "; ".join(f"{name}: {error}" for name, error in failures.items())
    failure = f"{len(failures)} of {len(todo)} runs failed ({failure})" if failures else ""
    if not records.read(results, "runs"):
        raise UserError(failure or f"{results} records no run: run without --report_only")
    paths = report.write_report(
        results,
        downsampling=build.downsampling(configs[0]),
        methods=list(dict(comparison.methods)),
        ablations=list(dict(comparison.ablations)),
        curve_split=comparison.curve_split,
    )
    print(f"\n{paths[0].read_text()}")
    for path in paths:
        print(path)
    if failure:
        raise UserError(failure)


def _name(row: records.Row) -> str:
    return f"{row['method']}-{row['codebook_size']}-{row['seed']}"


def _lock(directory: pathlib.Path) -> IO:
    """Hold a directory until the file is closed or the process ends."""
    file = open(directory / _LOCK, "w")  # noqa: SIM115, closed by the caller
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(f"another comparison is at work in {directory}: wait for it, or choose another") from error
    return file
