"""What a command line shows: one line for a mistake, no noise from libraries."""

from __future__ import annotations

import contextlib
import logging as std_logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

import tqdm
from absl import logging

TRY_AGAIN = 75  # exit code, EX_TEMPFAIL of sysexits.h: the same command may succeed


def visible(text: str) -> str:
    r"""A text on one line that cannot steer a terminal: what is not printable becomes an escape, such as \n or \x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def fail(message: str, code: int = 1) -> NoReturn:
    """End the process with `error: MESSAGE` and an exit code."""
    print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)  # libraries would try to write what they still hold, fail again and say so


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Show what concerns the user, once: not each save, and a failed write not also by each thread it failed in."""
    hooks = threading.excepthook, sys.unraisablehook
    verbosity, once = logging.get_verbosity(), _Once()
    stream, asyncio = std_logging.getLogger("vpvae_jax.data.stream"), std_logging.getLogger("asyncio")
    level, handler = asyncio.level, _Console()
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every save
    stream.addFilter(once)
    asyncio.setLevel(std_logging.CRITICAL)
    if not std_logging.root.handlers:  # otherwise a program around this one shows what is logged
        std_logging.root.addHandler(handler)
    threading.excepthook, sys.unraisablehook = _show_thread_error, _show_unraisable
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        std_logging.root.removeHandler(handler)
        asyncio.setLevel(level)
        stream.removeFilter(once)
        logging.set_verbosity(verbosity)


class _Console(std_logging.StreamHandler):
    """Shows `warning: MESSAGE` on a line of its own: progress bars give theirs away and are drawn again below."""

    def emit(self, record: std_logging.LogRecord) -> None:
        """Show a record, but not the tracebacks that Orbax logs besides raising them."""
        if not (record.exc_info and "orbax" in record.pathname):
            with tqdm.tqdm.external_write_mode(file=self.stream):
                super().emit(record)

    def format(self, record: std_logging.LogRecord) -> str:
        """`level: MESSAGE`, with a traceback if there is one."""
        return f"{record.levelname.lower()}: {super().format(record)}"


def _show_thread_error(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)


def _show_unraisable(unraisable) -> None:
    # Writes that end after the save they belong to has failed: TensorStore tells an event loop that is gone.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


class _Once(std_logging.Filter):
    """Lets a message pass once: training, fit and evaluation meet the same damaged examples."""

    def __init__(self):
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: std_logging.LogRecord) -> bool:
        """True for a message that was not seen before."""
        is_new = record.getMessage() not in self._seen
        self._seen.add(record.getMessage())
        return is_new
