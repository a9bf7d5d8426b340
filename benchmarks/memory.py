"""Memory that a device needs for a step of configs/coco.py at K = 16384, by compiling for it; nothing is run.

python -m benchmarks.memory --lpips lpips.safetensors [--topology v6e:2x2] [--batches 2 4 6 7 8] [--codebook_size 16384]
python -m benchmarks.memory --smoke

A JSON line a setting. With `--topology` XLA compiles for a TPU of another machine, which needs libtpu; without, for the
CPU of this machine, whose XLA keeps what `model.remat` would have it compute again, and whose neighbour search has its
tree outside XLA: about half a minute a line on 2 cores. For a TPU it was started once and stopped after 11 minutes.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

import jax

from benchmarks import reporting, smoke
from vpvae_jax.config.experiment import Experiment
from vpvae_jax.config.files import load_config
from vpvae_jax.training import loop

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "coco.py"
SMOKE_CODEBOOK_SIZE = 16
_GIBIBYTE = 2**30
SETTINGS: tuple[dict[str, object], ...] = (
    {},
    {"model.remat": True},
    {"model.dtype": "bfloat16"},
    {"model.dtype": "bfloat16", "model.remat": True},
    {"train.accumulation_steps": 2},
)
SMOKE_SETTINGS = ({"model.dtype": "bfloat16", "model.remat": True},)


def measure(devices, codebook_size: int, batch_size: int, values: Mapping[str, object]) -> dict[str, object]:
    """Return GiB a device by XLA's analysis, or why a setting does not compile."""
    num_devices = 1 if devices is None else len(devices)
    argument = f"quantizer=vp,codebook_size={codebook_size}"
    config = load_config(CONFIG, argument, {**values, "train.batch_size": batch_size * num_devices})
    try:
        program = loop.compile_program(Experiment(config), devices)
    except jax.errors.JaxRuntimeError as error:  # XLA refuses what does not fit
        return {"error": str(error).splitlines()[0]}
    analysis = program.step.memory_analysis()
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "aliased": -analysis.alias_size_in_bytes,
    }
    gibibytes = {name: size / _GIBIBYTE for name, size in parts.items()}
    return {"gibibytes": sum(gibibytes.values()), **gibibytes, "compile_seconds": program.compile_seconds}


def main(argv: Sequence[str] | None = None) -> int:
    parser = smoke.Parser(__doc__)
    parser.add_argument("--lpips", help="weights of LPIPS; needed without --smoke")
    parser.add_argument("--topology", help="of the TPU, such as v6e:2x2")
    parser.add_argument("--batches", nargs="+", type=int, default=[2, 4, 6, 7, 8], help="images a device")
    parser.add_argument("--codebook_size", type=int, default=16384)
    given = parser.parse_args(argv)
    all_settings: Sequence[Mapping[str, object]] = SETTINGS
    common: Mapping[str, object] = {"loss.lpips_weights": given.lpips}
    if given.smoke:
        all_settings, common = SMOKE_SETTINGS, smoke.NETWORK
        given.batches, given.codebook_size = [2], SMOKE_CODEBOOK_SIZE
    elif given.lpips is None:
        parser.error("--lpips: name the weights of LPIPS, or give --smoke")
    devices = None
    if given.topology:
        from jax.experimental import topologies

        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no TPU is here that could answer
        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=given.topology).devices)
    about = {
        "what": "memory of a step of configs/coco.py, quantizer vp",
        "device": "cpu" if devices is None else f"{devices[0].device_kind}, compiled for, not run",
        "devices": 1 if devices is None else len(devices),
        "codebook_size": given.codebook_size,
    }
    for settings in all_settings:
        for batch_size in given.batches:
            need = measure(devices, given.codebook_size, batch_size, {**common, **settings})
            reporting.write({**about, "batch_size_a_device": batch_size, **settings, **need})
    return 0


if __name__ == "__main__":
    sys.exit(main())
