import io
import logging

import tqdm

from vpvae_jax.runtime.console import _Console


def record(pathname="stream.py", error=None):
    return logging.LogRecord("name", logging.WARNING, pathname, 1, "skipping %s", ("a.png",), error)


def test_a_warning_has_a_line_of_its_own_beside_a_progress_bar():
    stream = io.StringIO()
    with tqdm.tqdm(total=2, file=stream) as bar:
        _Console(stream).emit(record())
        bar.update()
    lines = stream.getvalue().split("\n")
    assert lines[0].split("\r")[-1] == "warning: skipping a.png"
    assert "0/2" in lines[1]


def test_tracebacks_that_orbax_logs_are_not_shown():
    error = ValueError("no room")
    shown = []
    for path in ("site-packages/orbax/checkpoint.py", "vpvae_jax/training/checkpoint.py"):
        stream = io.StringIO()
        _Console(stream).emit(record(path, (type(error), error, None)))
        shown.append(stream.getvalue())
    assert shown == ["", "warning: skipping a.png\nValueError: no room\n"]
