"""What takes the place of a waveform and does something in the process that scores it. Imports no jax."""

import json
import os
import pathlib
import signal
import sys

import numpy as np


class Described:
    """Silence; writes down what the process is like."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __array__(self, dtype=None, copy=None):
        facts = {
            "has jax": "jax" in sys.modules,
            "threads": os.environ["OPENBLAS_NUM_THREADS"],
            "ignores ctrl-c": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
            "process": os.getpid(),
        }
        self.path.write_text(json.dumps(facts))
        return np.zeros(5, np.float32)


class Deadly:
    """A waveform that kills the process that scores it; with a path only the first that does."""

    def __init__(self, waveform: np.ndarray, path: pathlib.Path | None = None):
        self.waveform, self.path = waveform, path

    def __array__(self, dtype=None, copy=None):
        if self.path is None or not self.path.exists():
            if self.path is not None:
                self.path.touch()
            signal.raise_signal(signal.SIGSEGV)
        return self.waveform
