"""Time to list a folder of files, the first thing that a run does: seconds against the number of files.

python -m benchmarks.listing [--smoke] > results/benchmarks/listing.jsonl

Files are empty and 1,000 to a subfolder. The peer is `sorted(Path.rglob("*"))`, which lists them all in one line.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks import reporting
from vpvae_jax.data.sources import folder_source

NUMBERS = (1_000, 10_000, 100_000)
_A_FOLDER = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few files")
    given = parser.parse_args(argv)
    for number in (100,) if given.smoke else NUMBERS:
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            for index in range(number):
                if index % _A_FOLDER == 0:
                    folder = root / f"{index // _A_FOLDER:04}"
                    folder.mkdir()
                (folder / f"{index:06}.jpg").touch()
            seconds = {}
            for split in ("train", "validation"):
                began = time.perf_counter()
                folder_source(str(root), split, (".jpg",), "image").identity()
                seconds[split] = time.perf_counter() - began
            began = time.perf_counter()
            found = sorted(path for path in root.rglob("*") if path.is_file())
            peer_seconds = time.perf_counter() - began
            assert len(found) == number
        line = {"what": "listing a folder", "num_files": number, "seconds": seconds["train"]}
        line |= {"validation_seconds": seconds["validation"], "peer_seconds": peer_seconds}
        reporting.write(line | {"ratio": peer_seconds / seconds["train"]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
