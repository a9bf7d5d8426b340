"""What the command lines share: one line for a mistake, no noise from libraries."""

from __future__ import annotations

import logging as std_logging
import os
import sys
import threading
from typing import NoReturn

from absl import flags, logging

TRY_AGAIN = 75  # exit code, EX_TEMPFAIL of sysexits.h: nothing is wrong here, the same command may do


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line; a mistake ends with one line and exit code 1."""
    from vpvae_jax.errors import UserError

    try:
        rest = flags.FLAGS(argv)
    except UserError as error:  # a config's argument
        fail(str(error))
    except (flags.Error, AttributeError, ImportError, KeyError, OSError, SyntaxError, TypeError, ValueError) as error:
        message = " ".join(str(error.args[0] if error.args else error).split())
        if "flag 'config." in message:
            message += " (settings go behind --config=configs/photos.py or another file)"
        fail(message)
    if len(rest) > 1:
        fail(f"unexpected argument {rest[1]!r}: settings are given as --config.KEY=VALUE")
    return rest


def quiet_libraries() -> None:
    """Show what concerns the user, once: not each save, and a failed write not also by each thread it failed in."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells of every save
    std_logging.getLogger("vpvae_jax.data.batches").addFilter(_Once())
    std_logging.getLogger("asyncio").setLevel(std_logging.CRITICAL)
    logging.get_absl_handler().addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))
    threading.excepthook = _show_thread_error
    sys.unraisablehook = _show_unraisable


def fail(message: str, code: int = 1) -> NoReturn:
    """End the process with `error: MESSAGE` and an exit code."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)  # what libraries still hold cannot be written either, and need not be told of again


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
