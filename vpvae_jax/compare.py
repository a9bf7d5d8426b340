"""The command line of comparisons: train a grid of methods, codebook sizes and seeds, write tables and figures.

python -m vpvae_jax.compare --comparison=FILE --results=DIR --workdir=DIR [--jobs=N] [--comparison.KEY=VALUE ...]
"""

from __future__ import annotations

import pathlib
import time

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from vpvae_jax.command_line import fail, parse_flags, quiet_libraries
from vpvae_jax.xla_flags import set_cpu_flags

_COMPARISON = config_flags.DEFINE_config_file(
    "comparison", None, "Python file with get_config(), such as configs/comparisons/photos.py."
)
_RESULTS = flags.DEFINE_string("results", None, "Directory of tables and figures; its CSV files record what is done.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory that gets a work directory a run.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time; the CPU cores are shared out among them.", lower_bound=1)
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Write tables and figures of the runs that are recorded.")


def run(
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
    from vpvae_jax import build
    from vpvae_jax.comparison import grid, records, report
    from vpvae_jax.errors import ConfigError, UserError

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
        order=[*comparison.methods, *comparison.ablations],
        curve_split=comparison.curve_split,
    )
    print(f"\n{paths[0].read_text()}")
    for path in paths:
        print(path)
    if failure:
        raise UserError(failure)


def _main(argv: list[str]) -> None:
    del argv
    set_cpu_flags()
    quiet_libraries()
    from vpvae_jax.errors import UserError

    lacking = [flag.name for flag in (_RESULTS, _WORKDIR) if not flag.value]
    if _COMPARISON.value is None or lacking:
        fail(f"no {' and no '.join(['comparison'] * (_COMPARISON.value is None) + lacking)}: see --help")
    results, workdir = (pathlib.Path(flag.value).expanduser() for flag in (_RESULTS, _WORKDIR))
    try:
        run(_COMPARISON.value, results, workdir, num_jobs=_JOBS.value, report_only=_REPORT_ONLY.value)
    except (UserError, OSError) as error:
        fail(f"{error}")
    except KeyboardInterrupt:
        fail("interrupted: run the same command again, finished runs are recorded")


if __name__ == "__main__":
    app.run(_main, flags_parser=parse_flags)
