"""Do the runs of a comparison that are not recorded yet, then write its tables and figures."""

from __future__ import annotations

import pathlib
import time

import ml_collections

from vpvae_jax import build
from vpvae_jax.comparison import grid, records, report
from vpvae_jax.errors import ConfigError, UserError


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
    runs = grid.list_runs(comparison)
    configs = [grid.run_config(comparison, run) for run in runs]
    recorded = {(row["method"], row["codebook_size"], row["seed"]): row for row in records.read(results, "runs")}
    todo = []
    for run, config in zip(runs, configs, strict=True):
        row = recorded.get((run.method, run.codebook_size, run.seed))
        if row is None:
            todo.append(run)
        elif row["settings"] != grid.settings_hash(config):
            raise ConfigError(
                f"{results / 'runs.csv'} records {run.name} with other settings: choose another --results and "
                f"--workdir, or delete its row to train it anew"
            )
    failures = {}
    if todo and not report_only:
        build.check_data(configs[0])
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
    failure = "; ".join(f"{name}: {error}" for name, error in failures.items())
    failure = f"{len(failures)} of {len(todo)} runs failed ({failure})" if failures else ""
    if not records.read(results, "runs"):
        raise UserError(failure or f"{results} records no run: run without --report_only")
    paths = report.write_report(
        results,
        downsampling=build.downsampling(configs[0]),
        order=[*dict(comparison.methods), *dict(comparison.ablations)],
        curve_split=comparison.curve_split,
    )
    print(f"\n{paths[0].read_text()}")
    for path in paths:
        print(path)
    if failure:
        raise UserError(failure)
