"""The process of one run: reads its job from a work directory and writes the outcome there.

Started by `grid.do_runs` as `python -m vpvae_jax.compare.worker WORKDIR`; not a command for users.
"""

from __future__ import annotations

import os
import pathlib
import sys

from vpvae_jax.compare import grid
from vpvae_jax.compare.settings import Comparison
from vpvae_jax.runtime import environment
from vpvae_jax.runtime.errors import ConfigError, UserError
from vpvae_jax.runtime.files import read_json, write_json
from vpvae_jax.runtime.lock import hold


def main(workdir: pathlib.Path) -> None:
    """Do the run; an error that a user can fix is the outcome, any other ends the process."""
    job = read_json(workdir / grid.JOB)
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])  # before JAX starts its threads
    environment.prepare()
    comparison, run = Comparison.from_dict(job["comparison"]), grid.GridRun(**job["run"])
    try:
        with hold(workdir):
            if grid.settings_hash(grid.run_config(comparison, run)) != job["settings"]:
                raise ConfigError(
                    f"the config {comparison.config} has changed since the comparison started: start it again"
                )
            outcome = grid.do_run(comparison, run, workdir)._asdict()
    except UserError as error:
        outcome = {"error": str(error)}
    write_json(workdir / grid.OUTCOME, outcome)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
