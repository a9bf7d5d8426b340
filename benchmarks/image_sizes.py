"""Images of many sizes through a tokenizer: time against one size, and memory for a large image.

python -m benchmarks.image_sizes [--smoke] > results/benchmarks/image_sizes.jsonl

The network is that of configs/photos.py with random weights, images are noise; from pixels to pixels. Each line is a
process of its own, which compiles what it needs. The peer is the same network at the size of each image: `whole`.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import resource
import sys
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import reporting, smoke
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.tokenizer import Tokenizer

NUM_IMAGES = 100
SIDES = (256, 308, 360, 408, 460, 512)  # 36 sizes
LARGE = (3000, 4000)  # 12 megapixels
_KIBIBYTES_A_GIBIBYTE = 2**20


def measure(sizes: Sequence[tuple[int, int]], how: str, values: Mapping[str, object]) -> tuple[float, float]:
    """Seconds for images of these sizes, and GiB of this process at its peak."""
    experiment = Experiment(load_config("photos", values=values), is_training=False)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.0, 0.05, leaf.shape), leaf.dtype), experiment.abstract_params()
    )
    quantizer = experiment.token_quantizer
    codebook = jnp.asarray(rng.normal(size=(quantizer.codebook_size, quantizer.latent_dim)), jnp.float32)
    tokenizer = Tokenizer(experiment, params, codebook, step=0)
    images = [rng.integers(0, 256, (1, *size, 3), np.uint8) for size in sizes]
    if how == "whole":  # each function is compiled for the size at hand
        for name in ("encode", "decode"):
            setattr(tokenizer.modality, name, lambda function, array: np.asarray(function(array)))
    began = time.perf_counter()
    for image in images:
        assert tokenizer.decode(tokenizer.encode(image)).shape == image.shape
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIBIBYTES_A_GIBIBYTE


def _apart(*arguments) -> tuple[float, float]:
    """`measure` in a new process."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def main(argv: Sequence[str] | None = None) -> int:
    given = smoke.Parser(__doc__).parse_args(argv)
    values = smoke.NETWORK if given.smoke else {}
    sides, num = ((32, 40), 4) if given.smoke else (SIDES, NUM_IMAGES)
    many = list(itertools.islice(itertools.cycle(itertools.product(sides, sides)), num))
    side = round(np.sqrt(np.mean([height * width for height, width in many])) / 4) * 4
    large = (64, 96) if given.smoke else LARGE
    for sizes, how in itertools.product(([(side, side)] * num, many, [large]), ("tokenizer", "whole")):
        seconds, gibibytes = measure(sizes, how, values) if given.smoke else _apart(sizes, how, values)
        line = {"what": f"{len(sizes)} image{'s' * (len(sizes) > 1)}", "how": how, "num_sizes": len(set(sizes))}
        line["megapixels"] = sum(height * width for height, width in sizes) / 1e6
        reporting.write(line | {"seconds": seconds, "peak_gibibytes": gibibytes})
    return 0


if __name__ == "__main__":
    sys.exit(main())
