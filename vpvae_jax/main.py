"""Train, fit, evaluate, report, compare and convert: one command line.

    python -m vpvae_jax.main --config=photos --workdir=DIR [--mode=MODE] [--config.KEY=VALUE ...]

`python -m vpvae_jax` and, once installed, `vpvae-jax` are the same command.

As several processes, one for each host or accelerator, with one --workdir that all see: the same command on each with
--distributed on a cluster that JAX knows, elsewhere with --coordinator=HOST:PORT --num_processes=N --process_id=I.
"""

from __future__ import annotations

import ast
import contextlib
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags, logging
from ml_collections import config_flags

from vpvae_jax.runtime import environment
from vpvae_jax.runtime.console import TRY_AGAIN, fail, quiet_libraries
from vpvae_jax.runtime.errors import ConfigError, UserError


class Mode(NamedTuple):
    """One thing that the command line does."""

    doc: str
    needs: tuple[str, ...]  # flags without which it cannot work
    takes: tuple[str, ...] = ()  # further flags that it reads


_OF_A_RUN = ("config", "override", "distributed", "coordinator", "num_processes", "process_id")
MODES: Mapping[str, Mode] = {
    "train": Mode(
        "train, then fit the codebook, evaluate and report; resumes what it finds",
        ("workdir",),
        (*_OF_A_RUN, "init_from"),
    ),
    "fit_codebook": Mode("fit a codebook to the newest checkpoint", ("workdir",), (*_OF_A_RUN, "tokenizer")),
    "refit": Mode(
        "fit codebooks of several sizes to one training, evaluate each, then report",
        ("workdir", "codebook_sizes"),
        _OF_A_RUN,
    ),
    "evaluate": Mode("evaluate the current or a named tokenizer, then report", ("workdir",), (*_OF_A_RUN, "tokenizer")),
    "report": Mode(
        "draw the report of --workdir again, or show the runs --runs=DIR,DIR side by side in --results=DIR",
        (),
        ("workdir", "runs", "results", *_OF_A_RUN),
    ),
    "compare": Mode(
        "train a grid of methods, codebook sizes and seeds; resumes what it finds",
        ("comparison", "results", "workdir"),
        ("override", "jobs", "report_only"),
    ),
    "convert": Mode("convert published weights of a metric's network", ("network", "files", "output")),
}
_CONFIG_WORD = re.compile(r"^--?(no)?config\.([\w.]+)(?:=(.*))?$", re.DOTALL)
_OF_COMPARISON = re.compile(r"^--?(no)?comparison\.overrides\.([\w.]+)(?:=(.*))?$", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    """Do what a command line asks for; a user's mistake ends the process with one line and exit code 1.

    Args:
        argv: program and arguments; default `sys.argv`.
    """
    words = list(sys.argv if argv is None else argv)
    if any(word in ("--help", "-help", "--helpfull", "-h") for word in words[1:]):
        print(_help())
        return
    environment.prepare()
    try:
        given = parse(words)
    except UserError as error:
        fail(str(error))
    with quiet_libraries():
        if given["verbosity"].present:
            logging.set_verbosity(given.verbosity)
        _do(given)


def _define_flags(words: Sequence[str]) -> flags.FlagValues:
    """Flags of this command line alone: nothing is defined for the whole process."""
    values = flags.FlagValues()

    def define(kind: Any, name: str, default: Any, text: str, **more: Any) -> None:
        kind(name, default, help=text, flag_values=values, **more)

    text = "Config by name (photos, speech, coco, librispeech) or file, NAME[:argument]; default the work directory's."
    config_flags.DEFINE_config_file("config", None, text, flag_values=values, lock_config=False, sys_argv=list(words))
    text = "File with get_config() of a grid of runs, such as configs/comparisons/photos.py."
    config_flags.DEFINE_config_file(
        "comparison", None, text, flag_values=values, lock_config=False, sys_argv=list(words)
    )
    define(flags.DEFINE_enum, "mode", "train", "What to do.", enum_values=list(MODES))
    define(
        flags.DEFINE_string,
        "workdir",
        None,
        "Directory of the run; of a comparison, one for each of its runs below it.",
    )
    define(
        flags.DEFINE_bool,
        "distributed",
        False,
        "One of several processes of a run; SLURM, a TPU pod or Kubernetes says which.",
    )
    define(flags.DEFINE_string, "coordinator", None, "HOST:PORT of process 0, where no cluster tells.")
    define(flags.DEFINE_integer, "num_processes", None, "Processes of the run, where no cluster tells.")
    define(flags.DEFINE_integer, "process_id", None, "Number of this process, from 0, where no cluster tells.")
    define(flags.DEFINE_string, "init_from", None, "Begin with the parameters of this tokenizer or work directory.")
    define(flags.DEFINE_string, "tokenizer", None, "Name of a tokenizer of the run; default the current one.")
    define(flags.DEFINE_list, "codebook_sizes", None, "Numbers of codes, such as 64,256,1024.")
    text = "KEY=VALUE, the same as --config.KEY=VALUE without --config, or as --comparison.overrides.KEY=VALUE."
    define(flags.DEFINE_multi_string, "override", None, text)
    define(flags.DEFINE_string, "results", None, "Directory of tables and plots.")
    define(flags.DEFINE_list, "runs", None, "Work directories to show side by side.")
    define(flags.DEFINE_integer, "jobs", 1, "Runs at a time; they share the CPU cores.", lower_bound=1)
    define(flags.DEFINE_bool, "report_only", False, "Only tables and plots of the runs that are recorded.")
    define(flags.DEFINE_enum, "network", None, "Network to convert.", enum_values=["lpips", "inception"])
    define(flags.DEFINE_list, "files", None, "Published files of its weights.")
    define(flags.DEFINE_string, "output", None, "The safetensors file to write.")
    define(
        flags.DEFINE_integer, "verbosity", 0, "Of absl's log: -1 warnings, 0 info, 1 debug; default: quiet libraries."
    )
    return values


def _help() -> str:
    modes = "\n".join(f"  {name:<13} {mode.doc}" for name, mode in MODES.items())
    values = _define_flags([])
    listed = "\n".join(f"  --{name:<14} {values[name].help}" for name in values)
    return f"{__doc__}\nModes:\n{modes}\n\nFlags:\n{listed}\n\nKeys of a config: docs/config.md."


def parse(words: Sequence[str]) -> flags.FlagValues:
    """The flags of a command line.

    Raises:
        UserError: a mistake, in one line.
    """
    from vpvae_jax.compare.settings import Comparison
    from vpvae_jax.config.files import find, wrong_kind
    from vpvae_jax.config.schema import Config

    program, *words = words
    files, others = [], []
    while words:
        word = words.pop(0)
        if re.match(r"^--?(config|comparison)$", word) and words:
            word += f"={words.pop(0)}"
        if match := re.match(r"^--?(config|comparison)=([^:]*)(.*)$", word, re.DOTALL):
            files.append(f"--{match[1]}={find(match[2])}{match[3]}")
        else:
            others.append(word)
    has_config = any(word.startswith("--config=") for word in files)
    forms = (_OF_COMPARISON,) if has_config else (_OF_COMPARISON, _CONFIG_WORD)
    others = [_as_override(word, forms) for word in others]
    words = [program, *files, *others]  # settings are of the file before them
    try:
        values = _define_flags(words)
        rest = values(words)
    except (flags.Error, AttributeError, ImportError, KeyError, OSError, SyntaxError, TypeError, ValueError) as error:
        said = " ".join(str(error.args[0] if error.args else error).split())
        raise ConfigError(_explain(words) or said) from error
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # libraries read theirs
    if values.config is not None and not isinstance(values.config, Config):
        raise wrong_kind("--config", values.config, "image_config(...) or speech_config(...) of vpvae_jax.config.files")
    if values.comparison is not None and not isinstance(values.comparison, Comparison):
        raise wrong_kind("--comparison", values.comparison, "a Comparison of vpvae_jax.compare.settings")
    _check(values, rest)
    return values


def _check(values: flags.FlagValues, rest: list[str]) -> None:
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument {rest[1]!r}: settings are given as --config.KEY=VALUE")
    mode = MODES[values.mode]
    if lacking := [f"--{name}" for name in mode.needs if not values[name].value]:
        raise ConfigError(f"no {' and no '.join(lacking)}: --mode={values.mode} needs it, see --help")
    known = {*mode.needs, *mode.takes, "mode", "verbosity"}
    unused = [name for name in values if values[name].present and name.partition(".")[0] not in known]
    if unused:
        raise ConfigError(f"--{unused[0]} is not used by --mode={values.mode}: leave it out, or choose another mode")
    if values.mode == "report" and bool(values.runs) == bool(values.workdir):
        raise ConfigError("--mode=report needs either --workdir=DIR, or --runs=DIR,DIR with --results=DIR")
    if values.runs and not values.results:
        raise ConfigError("--runs without --results: name a directory for the report")
    if values.codebook_sizes and not all(size.isdigit() and int(size) > 0 for size in values.codebook_sizes):
        raise ConfigError(f"--codebook_sizes={','.join(values.codebook_sizes)}: expected numbers, such as 64,256")


def _as_override(word: str, forms: Sequence[re.Pattern[str]]) -> str:
    """A setting of a config that comes from elsewhere, such as the work directory, as `--override=KEY=VALUE`."""
    match = next((match for form in forms if (match := form.match(word))), None)
    if match is None:
        return word
    no, key, value = match.groups()
    return f"--override={key}={not no if value is None else value}"


def overrides(given: flags.FlagValues) -> dict[str, Any]:
    """What a command line changes of the config of a work directory, or of all runs of a comparison, by dotted key."""
    pairs = [text.partition("=") for text in given.override or ()]
    if lacking := [key for key, equals, _ in pairs if not equals]:
        raise ConfigError(f"--override={lacking[0]}: expected KEY=VALUE")
    changed = {key: _literal(value) for key, _, value in pairs}
    return changed | ({"train.init_from": given.init_from} if given.init_from else {})


def _explain(words: Sequence[str]) -> str:
    """What is wrong with the first setting that the config does not take, empty if all are well."""
    from vpvae_jax.compare.settings import explain
    from vpvae_jax.config.files import load_config
    from vpvae_jax.config.keys import assign

    for word in words:
        if (match := re.match(r"^--?comparison\.(\w+)", word)) and (complaint := explain(match[1])):
            return complaint
    place = next((word.partition("=")[2] for word in words if word.startswith("--config=")), "")
    settings = [match for word in words if (match := _CONFIG_WORD.match(word))]
    try:
        path, _, argument = place.partition(":")
        config = load_config(path, argument)
        for match in settings:
            assign(config, match[2], not match[1] if match[3] is None else _literal(match[3]))
    except UserError as error:
        return str(error)
    except Exception:
        return ""  # something else is wrong, of which the caller has the words
    return ""


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (SyntaxError, ValueError):
        return text


def _do(given: flags.FlagValues) -> None:
    """Do the mode, and end as the exit codes say."""
    is_distributed = given.distributed or any(
        value is not None for value in (given.coordinator, given.num_processes, given.process_id)
    )
    from vpvae_jax.runtime import processes
    from vpvae_jax.runtime.preemption import INTERRUPTED, Stopped, stop_when_asked

    try:
        if is_distributed:
            processes.join(given.coordinator, given.num_processes, given.process_id)
        elif given.mode == "compare":
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like Ctrl-C, with the runs under way
        else:
            stop_when_asked()
        _dispatch(given)
    except Stopped as stopped:
        print(str(stopped) or f"asked to stop: {_where(given)}", flush=True)
        if not stopped.by_all:
            os._exit(stopped.code)  # to leave otherwise is to wait for the other processes
        sys.exit(stopped.code)
    except UserError as error:
        fail(str(error))
    except FloatingPointError as error:  # of debug.nans; the traceback names the line
        traceback.print_exc()
        fail(f"{error}: see the traceback; what was saved is from before")
    except KeyboardInterrupt:
        fail(f"interrupted: {_where(given)}", INTERRUPTED)
    except OSError as error:
        fail(f"{error}: fix it; {_where(given)}")
    except Exception as error:
        if reason := processes.lost_peer(error):
            fail(
                f"another process of the run has stopped or cannot be reached ({reason}): "
                f"start all of them again with the same commands to resume from the last checkpoint",
                TRY_AGAIN,
            )
        if not is_distributed:
            raise
        traceback.print_exc()
        fail(f"{type(error).__name__}: {error}")  # leaving otherwise waits for the others


def _dispatch(given: flags.FlagValues) -> None:
    if given.mode == "convert":
        from vpvae_jax.perceptual.convert import convert

        convert(given.network, [_path(file) for file in given.files], _path(given.output))
        print(given.output)
    elif given.mode == "compare":
        from vpvae_jax.compare.compare import compare

        given.comparison.overrides = dict(given.comparison.overrides or {}) | overrides(given)
        compare(
            given.comparison,
            _path(given.results),
            _path(given.workdir),
            num_jobs=given.jobs,
            report_only=given.report_only,
        )
    elif given.runs:
        from vpvae_jax.reporting.report import write_reports

        print(*write_reports([_path(run) for run in given.runs], _path(given.results)), sep="\n")
    else:
        _run(given)


def _run(given: flags.FlagValues) -> None:
    """A mode of one run, which holds its work directory."""
    from vpvae_jax import runs
    from vpvae_jax.config.files import with_values
    from vpvae_jax.runtime import processes
    from vpvae_jax.runtime.lock import hold

    processes.check_backend()
    workdir, changed = _path(given.workdir), overrides(given)
    if given.config is not None:
        with_values(given.config, changed)
    sizes = tuple(int(size) for size in given.codebook_sizes or ())
    options = runs.Options(given.tokenizer or "", sizes)
    experiment = runs.assemble(given.config, workdir, given.mode, changed)
    with hold(workdir) if processes.is_first() else contextlib.nullcontext():
        runs.run(experiment, workdir, given.mode, options)


def _where(given: flags.FlagValues) -> str:
    """What the work directory of a run has, and what to do: true at every moment."""
    from vpvae_jax.config.workdir import newest_step

    if not given.workdir or given.mode == "compare":
        return "run the same command again"
    step = newest_step(_path(given.workdir))
    if step is None:
        return "there is no checkpoint yet; run the same command again to start from the beginning"
    return f"the checkpoint of step {step} is kept; run the same command again to resume"


def _path(text: str) -> pathlib.Path:
    return pathlib.Path(text).expanduser()


if __name__ == "__main__":
    main()
