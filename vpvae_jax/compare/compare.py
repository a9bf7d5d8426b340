"""Do the runs of a comparison that are not recorded yet, then write its tables and plots."""

from __future__ import annotations

import pathlib
import time

from vpvae_jax.compare import grid, records, report
from vpvae_jax.compare.settings import Comparison
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.runtime.console import visible
from vpvae_jax.runtime.errors import ConfigError, UserError
from vpvae_jax.runtime.lock import hold


def compare(
    comparison: Comparison,
    results: pathlib.Path,
    workdir: pathlib.Path,
    *,
    num_jobs: int = 1,
    report_only: bool = False,
) -> None:
    """Do the runs of a comparison that are not recorded yet, then write tables and plots.

    Args:
        comparison: see `configs/comparisons/`.
        results: directory of the CSV files that record the runs, of `table.md` and of plots.
        workdir: each run gets a work directory below it.
        num_jobs: runs at a time; they share the CPU cores.
        report_only: do no runs.

    Raises:
        UserError: what a user can fix; recorded runs stay.
    """
    grid.check_comparison(comparison)
    if results.absolute() == workdir.absolute():
        raise ConfigError(f"results and workdir are both {results}: give each a directory of its own")
    jobs = [grid.Job(run, grid.settings_hash(grid.run_config(comparison, run))) for run in grid.list_runs(comparison)]
    failure = ""
    if report_only:
        _unrecorded(comparison, jobs, results, workdir)
    else:
        with hold(results):
            todo = _unrecorded(comparison, jobs, results, workdir)
            if todo:
                Experiment(grid.run_config(comparison, todo[0].run)).check_data()
                with hold(workdir):
                    failure = _do(comparison, todo, results, workdir, num_jobs)
    if not records.read(results, "runs"):
        raise UserError(failure or f"{results} records no run: run without --report_only")
    paths = report.write_report(
        results,
        modality=Experiment(grid.run_config(comparison, jobs[0].run)).modality,
        methods=[name for name, _ in comparison.methods],
        ablations=[name for name, _ in comparison.ablations],
        curve_split=comparison.curve_split,
    )
    print(f"\n{paths[0].read_text()}")
    for path in paths:
        print(path)
    if failure:
        raise UserError(failure)


def _unrecorded(
    comparison: Comparison, jobs: list[grid.Job], results: pathlib.Path, workdir: pathlib.Path
) -> list[grid.Job]:
    """The jobs without a record; ConfigError for a record of something else."""
    recorded = {_name(row): row for row in records.read(results, "runs")}
    with_curve = {_name(row) for row in records.read(results, "curves")}
    refitted = {(_name(row), row["num_codes"]) for row in records.read(results, "refits")}
    foreign = sorted(recorded.keys() - {job.run.name for job in jobs})
    if foreign:
        raise ConfigError(
            f"{results / 'runs.csv'} records {', '.join(foreign)}, no run of this comparison: choose another --results"
        )
    todo = []
    for job in jobs:
        run, row = job.run, recorded.get(job.run.name)
        if row is None:
            todo.append(job)
            continue
        lacks_curve = grid.has_curve(comparison, run) and run.name not in with_curve
        if row["settings"] != job.settings:
            problem = "with other settings"
        elif lacks_curve or any((run.name, size) not in refitted for size in grid.refit_sizes(comparison, run)):
            problem = "without the curve or the refits that are asked for now"
        else:
            continue
        raise ConfigError(
            f"{results / 'runs.csv'} records {run.name} {problem}: choose another --results and --workdir, "
            f"or delete its row and {workdir / run.name} to train it again"
        )
    return todo


def _do(
    comparison: Comparison,
    todo: list[grid.Job],
    results: pathlib.Path,
    workdir: pathlib.Path,
    num_jobs: int,
) -> str:
    """Do runs and record them as they end.

    Returns:
        Which failed and why, empty if none did.
    """
    failures = []
    started = time.monotonic()
    for number, (run, outcome) in enumerate(grid.do_runs(comparison, todo, workdir, num_jobs), start=1):
        minutes = (time.monotonic() - started) / 60
        if isinstance(outcome, UserError):
            failures.append(f"{run.name}: {outcome}")
            print(visible(f"{number}/{len(todo)} {run.name}: {outcome}"), flush=True)
            continue
        for table in ("curves", "refits", "runs"):  # runs last: a row there means that all is recorded
            records.record(results, table, (run.method, run.codebook_size, run.seed), getattr(outcome, table))
        left = minutes / number * (len(todo) - number)
        print(f"{number}/{len(todo)} {run.name} after {minutes:.0f} min, about {left:.0f} min left", flush=True)
    return f"{len(failures)} of {len(todo)} runs failed ({'; '.join(failures)})" if failures else ""


def _name(row: records.Row) -> str:
    return f"{row['method']}-{row['codebook_size']}-{row['seed']}"
