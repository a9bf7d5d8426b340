"""The command line: train | fit_codebook | evaluate | report.

python -m vpvae_jax.main --config=configs/photos.py --workdir=DIR [--mode=MODE] [--config.KEY=VALUE ...]

As several processes, one a host or an accelerator, with one --workdir that all see: the same command on each with
--distributed on a cluster that JAX knows, elsewhere with --coordinator=HOST:PORT --num_processes=N --process_id=I.
"""

from __future__ import annotations

import os
import pathlib
import traceback

from absl import app, flags
from ml_collections import config_flags

from vpvae_jax.command_line import TRY_AGAIN, fail, parse_flags, quiet_libraries
from vpvae_jax.host_memory import keep_freed_memory
from vpvae_jax.xla_flags import set_cpu_flags

MODES = ("train", "fit_codebook", "evaluate", "report")

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Python file with get_config(), configs/photos.py[:argument]; later modes default to the work directory's.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, figures, tokenizer, evaluations.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "train runs through to the codebook, the evaluation and the report; the others do their part alone.",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes of a run; SLURM, a TPU pod or Kubernetes says which."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where nothing says it.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run, where nothing says it.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, where nothing says it.")


def run(config, workdir: pathlib.Path, mode: str) -> None:
    """Do one mode in a work directory. Of several processes all work, each on its share; the first one writes.

    Args:
        config: a ConfigDict, or None for the one that the work directory was trained with (not for `train`).
        workdir: made by `train` if need be.
        mode: one of `MODES`.

    Raises:
        UserError: what a user can mend.
    """
    import jax

    from vpvae_jax import build, distributed
    from vpvae_jax import workdir as layout
    from vpvae_jax.errors import ConfigError
    from vpvae_jax.evaluation.report import write_report
    from vpvae_jax.evaluation.results import read_results, table
    from vpvae_jax.fit import fit_codebook
    from vpvae_jax.tokenizer import Tokenizer
    from vpvae_jax.training.loop import train
    from vpvae_jax.training.preemption import stop_on_sigterm

    if config is None and mode == "train":
        raise ConfigError("no config: expected --config=configs/photos.py or another file with get_config()")
    if config is None:
        config = layout.read_config(workdir)
    distributed.check_same(
        {"mode": mode} | {key: repr(value) for key, value in build.flatten(config).items()},
        "was started with other settings (give all the same command but for --process_id)",
    )
    distributed.check_same_workdir(workdir)
    build.check_config(config)
    build.build_quantizer(config)
    build.build_schedule(config)
    if mode != "train" or layout.has_results(workdir):
        layout.check_same_config(config, workdir, same_data=mode in ("train", "fit_codebook"))
    if mode != "train":
        config = layout.with_stored_training(config, workdir)
    if mode == "train":
        build.check_data(config)
        with build.build_scorer(config):
            pass  # what its figures need is there
        workdir.mkdir(parents=True, exist_ok=True)
        with jax.debug_nans(config.debug.nans):
            train(config, workdir)
    stop_on_sigterm()
    if mode in ("train", "fit_codebook"):
        tokenizer = fit_codebook(config, workdir)
        if distributed.is_first():
            tokenizer.save(workdir / layout.TOKENIZER)
    elif mode == "evaluate":
        tokenizer = Tokenizer.load(workdir / layout.TOKENIZER)
    if mode in ("train", "evaluate"):
        _evaluate(config, tokenizer, workdir)
    if distributed.is_first() and mode in ("train", "report"):
        pictures = write_report(workdir)
        print(f"\n{table(read_results(workdir), build.modality_of(config).figures)}\n")
        for path in [workdir / layout.EVAL, *pictures, workdir / layout.METRICS, workdir / layout.TOKENIZER]:
            print(path)
        if mode == "train":
            layout.write_json(workdir / layout.DONE, {"step": tokenizer.step})
    distributed.wait_for_all()


def _evaluate(config, tokenizer, workdir: pathlib.Path) -> None:
    from vpvae_jax import build, distributed
    from vpvae_jax.evaluation.evaluate import evaluate
    from vpvae_jax.evaluation.results import write_results
    from vpvae_jax.machine import machine

    for split in config.eval.splits:
        name = f"{build.dataset_name(config)}-{split}"
        examples = build.examples(config, split)
        scorer = build.build_scorer(config)
        results, counts, kept = evaluate(tokenizer, examples, scorer, name=name, num_kept=config.eval.num_pictures)
        if distributed.is_first():
            results |= {"machine": machine(), "config": config.to_dict()}
            print(write_results(workdir, name, results, counts, kept))


def _main(argv: list[str]) -> None:
    del argv
    if not _WORKDIR.value:
        fail("no work directory: expected --workdir=DIR")
    keep_freed_memory()
    set_cpu_flags()
    quiet_libraries()
    is_distributed = _DISTRIBUTED.value or any(
        flag.value is not None for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)
    )
    from vpvae_jax import distributed
    from vpvae_jax.errors import UserError
    from vpvae_jax.training.preemption import Stopped, stop_on_sigterm

    try:
        if is_distributed:
            distributed.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        else:
            stop_on_sigterm()
        run(_CONFIG.value, pathlib.Path(_WORKDIR.value).expanduser(), _MODE.value)
    except Stopped as stopped:
        print(stopped, flush=True)
        if not stopped.by_all:
            os._exit(0)  # to leave otherwise is to wait for the other processes
    except UserError as error:
        fail(str(error))
    except FloatingPointError as error:  # of debug.nans; the traceback names the line
        traceback.print_exc()
        fail(f"{error}: see the traceback; what was saved is from before")
    except KeyboardInterrupt:
        fail("interrupted: run the same command again to go on from the last checkpoint")
    except OSError as error:
        fail(f"{error}: mend it and run the same command again, finished checkpoints are kept")
    except Exception as error:
        if reason := distributed.lost_peer(error):
            fail(
                f"another process of the run has stopped or cannot be reached ({reason}): "
                f"start all of them again with the same commands to go on from the last checkpoint",
                TRY_AGAIN,
            )
        if not is_distributed:
            raise
        traceback.print_exc()
        fail(f"{type(error).__name__}: {error}")  # leaving otherwise waits for the others


if __name__ == "__main__":
    app.run(_main, flags_parser=parse_flags)
