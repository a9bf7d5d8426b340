"""What memory a device needs for a step of configs/coco.py at K = 16384, by compiling for it; nothing is run.

python -m benchmarks.memory --lpips lpips.safetensors [--topology v6e:2x2] [--batches 2 4 6 7 8] [--codebook_size 16384]

A JSON line a setting. With `--topology` XLA compiles for a TPU that is not there, which needs libtpu; without, for the
CPU of this machine, whose XLA keeps what `model.remat` would have it compute again, and whose neighbour search has its
tree outside XLA: about half a minute a line on 2 cores. For a TPU it was begun once and stopped after 11 minutes.
"""

from __future__ import annotations

import argparse
import os
import pathlib

import jax

from benchmarks import reporting
from vpvae_jax.config_arguments import load_config
from vpvae_jax.training import loop

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "coco.py"
_GIBIBYTE = 2**30
SETTINGS: tuple[dict[str, object], ...] = (
    {},
    {"model.remat": True},
    {"model.dtype": "bfloat16"},
    {"model.dtype": "bfloat16", "model.remat": True},
    {"train.accumulation_steps": 2},
)


def measure(devices, lpips: str, codebook_size: int, batch_size: int, settings: dict[str, object]) -> dict[str, object]:
    """The need of one setting, GiB a device by XLA's analysis, or why it does not compile."""
    num_devices = 1 if devices is None else len(devices)
    values = {"train.batch_size": batch_size * num_devices, "loss.lpips_weights": lpips}
    config = load_config(CONFIG, f"quantizer=vp,codebook_size={codebook_size}", values | settings)
    about = {"batch_size_a_device": batch_size, "devices": num_devices, "codebook_size": codebook_size, **settings}
    try:
        program = loop.compile_program(config, devices)
    except jax.errors.JaxRuntimeError as error:  # XLA refuses what does not fit
        return about | {"error": str(error).splitlines()[0]}
    analysis = program.step.memory_analysis()
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "aliased": -analysis.alias_size_in_bytes,
    }
    gibibytes = {name: size / _GIBIBYTE for name, size in parts.items()}
    return about | {"gibibytes": sum(gibibytes.values()), **gibibytes, "compile_seconds": program.compile_seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lpips", required=True, help="weights of LPIPS, see README")
    parser.add_argument("--topology", help="of the TPU, such as v6e:2x2")
    parser.add_argument("--batches", nargs="+", type=int, default=[2, 4, 6, 7, 8], help="images a device")
    parser.add_argument("--codebook_size", type=int, default=16384)
    given = parser.parse_args()
    devices = None
    if given.topology:
        from jax.experimental import topologies

        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU whose metadata it could ask for
        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=given.topology).devices)
    for settings in SETTINGS:
        for batch_size in given.batches:
            line = measure(devices, given.lpips, given.codebook_size, batch_size, settings)
            kind = "cpu" if devices is None else f"{devices[0].device_kind}, not there"
            reporting.write({"what": "memory of a step of configs/coco.py, quantizer vp", "device": kind, **line})


if __name__ == "__main__":
    main()
