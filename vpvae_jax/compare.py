"""The command line of comparisons: train a grid of methods, codebook sizes and seeds, write tables and figures.

python -m vpvae_jax.compare --comparison=FILE --results=DIR --workdir=DIR [--jobs=N] [--comparison.KEY=VALUE ...]
"""

from __future__ import annotations

import pathlib
import signal

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


def _main(argv: list[str]) -> None:
    del argv
    set_cpu_flags()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like Ctrl-C, with the runs under way
    quiet_libraries()
    from vpvae_jax.comparison.compare import compare
    from vpvae_jax.errors import UserError

    lacking = [flag.name for flag in (_RESULTS, _WORKDIR) if not flag.value]
    if _COMPARISON.value is None or lacking:
        fail(f"no {' and no '.join(['comparison'] * (_COMPARISON.value is None) + lacking)}: see --help")
    results, workdir = (pathlib.Path(flag.value).expanduser() for flag in (_RESULTS, _WORKDIR))
    try:
        compare(_COMPARISON.value, results, workdir, num_jobs=_JOBS.value, report_only=_REPORT_ONLY.value)
    except (UserError, OSError) as error:
        fail(f"{error}")
    except KeyboardInterrupt:
        fail("interrupted: run the same command again, finished runs are recorded")


if __name__ == "__main__":
    app.run(_main, flags_parser=parse_flags)
