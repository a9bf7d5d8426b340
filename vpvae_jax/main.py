"""The command line: train | fit_codebook | evaluate | report.

python -m vpvae_jax.main --config=configs/photos.py --workdir=DIR [--mode=MODE] [--config.KEY=VALUE ...]
"""

from __future__ import annotations

import logging as std_logging
import os
import pathlib
import sys
import threading

from absl import app, flags, logging
from ml_collections import config_flags

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


def run(config, workdir: pathlib.Path, mode: str) -> None:
    """Do one mode in a work directory.

    Args:
        config: a ConfigDict, or None for the one that the work directory was trained with (not for `train`).
        workdir: made by `train` if need be.
        mode: one of `MODES`.

    Raises:
        UserError: what a user can mend.
    """
    from vpvae_jax import build
    from vpvae_jax import workdir as layout
    from vpvae_jax.errors import ConfigError
    from vpvae_jax.evaluation import report
    from vpvae_jax.fit import fit_codebook
    from vpvae_jax.training.loop import train

    if config is None and mode == "train":
        raise ConfigError("no config: expected --config=configs/photos.py or another file with get_config()")
    if config is None:
        config = layout.read_config(workdir)
    build.check_config(config)
    build.build_quantizer(config)
    build.build_schedule(config)
    if mode != "train" or layout.has_results(workdir):
        layout.check_same_config(config, workdir, same_data=mode in ("train", "fit_codebook"))
    if mode != "train":
        config = layout.with_stored_training(config, workdir)
    if mode == "train":
        build.check_data(config)
        workdir.mkdir(parents=True, exist_ok=True)
        layout.write_json(workdir / layout.CONFIG, config.to_dict())
        train(config, workdir)
    if mode in ("train", "fit_codebook"):
        fit_codebook(config, workdir)
    if mode in ("train", "evaluate"):
        _evaluate(config, workdir)
    if mode in ("train", "report"):
        pictures = report.write_report(workdir)
        print(f"\n{report.table(report.read_results(workdir))}\n")
        for path in [workdir / layout.EVAL, *pictures, workdir / layout.METRICS, workdir / layout.TOKENIZER]:
            print(path)


def _evaluate(config, workdir: pathlib.Path) -> None:
    from vpvae_jax import build
    from vpvae_jax import workdir as layout
    from vpvae_jax.evaluation.evaluate import evaluate, write_results
    from vpvae_jax.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(workdir / layout.TOKENIZER)
    for split in config.eval.splits:
        name = f"{build.dataset_name(config)}-{split}"
        results, counts, pictures = evaluate(
            tokenizer,
            build.build_source(config, split),
            name=name,
            crop=config.data.eval_crop,
            resize=config.data.resize,
            batch_size=config.eval.batch_size,
            num_pictures=config.eval.num_pictures,
        )
        print(write_results(workdir, name, results | {"config": config.to_dict()}, counts, pictures))


def _parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line; a mistake ends with one line and exit code 1."""
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, ImportError, KeyError, OSError, SyntaxError, TypeError, ValueError) as error:
        message = " ".join(str(error.args[0] if error.args else error).split())
        if "flag 'config." in message:
            message += " (settings go behind --config=configs/photos.py or another file)"
        _fail(message)
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r}: settings are given as --config.KEY=VALUE")
    if not _WORKDIR.value:
        _fail("no work directory: expected --workdir=DIR")
    return rest


def _main(argv: list[str]) -> None:
    del argv
    set_cpu_flags()
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells of every save
    std_logging.getLogger("vpvae_jax.data.pipeline").addFilter(_Once())
    # A failed write is reported once, by the training, not also by each thread of Orbax and TensorBoard it failed in.
    std_logging.getLogger("asyncio").setLevel(std_logging.CRITICAL)
    logging.get_absl_handler().addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))
    threading.excepthook = _show_thread_error
    sys.unraisablehook = _show_unraisable
    from vpvae_jax.errors import UserError

    try:
        run(_CONFIG.value, pathlib.Path(_WORKDIR.value).expanduser(), _MODE.value)
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted: run the same command again to go on from the last checkpoint")
    except OSError as error:
        _fail(f"{error}: mend it and run the same command again, finished checkpoints are kept")


def _show_thread_error(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)


def _show_unraisable(unraisable) -> None:
    # Writes that end after the save they belong to has failed: TensorStore tells an event loop that is gone.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


class _Once(std_logging.Filter):
    """Lets a message pass once a process: training, fit and evaluation meet the same damaged images."""

    def __init__(self):
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: std_logging.LogRecord) -> bool:
        """True for a message that was not seen before."""
        is_new = record.getMessage() not in self._seen
        self._seen.add(record.getMessage())
        return is_new


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)  # what libraries still hold cannot be written either, and need not be told of again


if __name__ == "__main__":
    app.run(_main, flags_parser=_parse_flags)
