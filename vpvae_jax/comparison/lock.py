"""One process at a time in a directory."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator

from vpvae_jax.errors import ConfigError

_LOCK = ".lock"


@contextlib.contextmanager
def hold(directory: pathlib.Path) -> Iterator[None]:
    """Hold a directory, which is made if need be, until the block or the process ends.

    Raises:
        ConfigError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / _LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another process is at work in {directory}: wait for it, or choose another") from error
        yield
