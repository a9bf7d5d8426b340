"""Run the notebooks of docs/notebooks and keep nothing of their outputs.

python -m docs.run_notebooks [--full] [NAME ...]

Each runs in a temporary directory with this Python, in its short form (VPVAE_JAX_SHORT=1: few steps) unless --full.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
import time

import nbclient
import nbformat

NOTEBOOKS = pathlib.Path(__file__).parent / "notebooks"


def main() -> None:
    """Run the notebooks that are named, or all."""
    known = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="train as long as the notebooks say")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default all: {', '.join(known)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"no notebook {', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    os.environ["VPVAE_JAX_SHORT"] = "0" if arguments.full else "1"
    for name in arguments.names or known:
        start = time.monotonic()
        run(NOTEBOOKS / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


def run(path: pathlib.Path) -> nbformat.NotebookNode:
    """Run one notebook; returns it with its outputs.

    Args:
        path: of the notebook, which stays as it is.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as directory:
        client = nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": directory}})
        return client.execute()


if __name__ == "__main__":
    main()
