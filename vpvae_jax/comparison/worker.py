"""The process of one run: reads its job from a work directory and leaves the outcome there.

python -m vpvae_jax.comparison.worker WORKDIR
"""

from __future__ import annotations

import os
import pathlib
import sys

import jax
import ml_collections

from vpvae_jax import workdir as layout
from vpvae_jax.comparison import grid, lock
from vpvae_jax.errors import ConfigError, UserError
from vpvae_jax.host_memory import keep_freed_memory
from vpvae_jax.xla_flags import set_cpu_flags

_CACHE = "compiled"
_MIN_COMPILE_SECONDS = 0.5


def main(workdir: pathlib.Path) -> None:
    """Do the run; an error that a user can mend is the outcome, any other ends the process."""
    job = layout.read_json(workdir / grid.JOB)
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])  # before JAX starts its threads
    keep_freed_memory()
    set_cpu_flags()
    # Seeds share their programs, and so do the checkpoints of a curve.
    jax.config.update("jax_compilation_cache_dir", str(workdir.parent / _CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
    comparison, run = ml_collections.ConfigDict(job["comparison"]), grid.Run(**job["run"])
    try:
        with lock.hold(workdir):
            if grid.settings_hash(grid.run_config(comparison, run)) != job["settings"]:
                raise ConfigError(f"{comparison.config} has changed since the comparison started: start it again")
            outcome = grid.do_run(comparison, run, workdir)._asdict()
    except UserError as error:
        outcome = {"error": str(error)}
    layout.write_json(workdir / grid.OUTCOME, outcome)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
