"""Time, memory and communication of a step of configs/coco.py on 1 to 256 devices, estimated: nothing is run.

python -m benchmarks.scaling --lpips lpips.safetensors > results/benchmarks/scaling.jsonl
python -m benchmarks.scaling --table results/benchmarks/scaling.jsonl > results/benchmarks/scaling.md
python -m benchmarks.scaling --smoke

The step is compiled for 1, 8, 64 and 256 devices of a CPU, with the neighbour search of accelerators. Operations and
collectives are those of XLA's program for one device. Times are computed from them with the assumptions below.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import smoke

ROOT = pathlib.Path(__file__).parent.parent
NUM_DEVICES = (1, 8, 64, 256)
IMAGES_A_DEVICE = 4
CODEBOOK_SIZE = 16384
SMOKE_DEVICES, SMOKE_CODEBOOK_SIZE = (2,), 16
# NVIDIA's data sheet of the H100 SXM; 400 Gb/s InfiniBand for each device between hosts of eight.
PEAK_TF32, PEAK_BF16 = 494.7e12, 989.4e12  # operations a second, dense
NVLINK, NETWORK = 450e9, 50e9  # bytes a second and device, each direction
DEVICES_A_HOST = 8
EFFICIENCY = 0.4  # share of the peak that convolutions reach: assumed, not measured
_GIBIBYTE = 2**30


def measure(lpips: str, num_devices: int, dtype: str, *, is_smoke: bool) -> None:
    """Print a line of XLA's analysis of the step on so many devices, in a process that has them."""
    from benchmarks import reporting
    from benchmarks.collectives import collectives, search_in_xla
    from benchmarks.memory import CONFIG
    from vpvae_jax.config.experiment import Experiment
    from vpvae_jax.config.files import load_config
    from vpvae_jax.training import loop

    codebook_size = SMOKE_CODEBOOK_SIZE if is_smoke else CODEBOOK_SIZE
    values = smoke.NETWORK if is_smoke else {"loss.lpips_weights": lpips}
    values = {**values, "train.batch_size": IMAGES_A_DEVICE * num_devices, "model.dtype": dtype}
    config = load_config(CONFIG, f"quantizer=vp,codebook_size={codebook_size}", values)
    with search_in_xla():
        program = loop.compile_program(Experiment(config))
    step, analysis = program.step, program.step.memory_analysis()
    kinds: dict[str, int] = {}
    for collective in collectives(step.as_text()):
        kinds[collective.kind] = kinds.get(collective.kind, 0) + collective.num_bytes
    total = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes  # outputs take the place of arguments
    line = {
        "what": "a step of configs/coco.py, quantizer vp, estimated",
        "devices": num_devices,
        "images_a_device": IMAGES_A_DEVICE,
        "codebook_size": codebook_size,
        "model.dtype": dtype,
        "operations_a_device": float(step.cost_analysis()["flops"]),
        "gibibytes_a_device": total / _GIBIBYTE,
        "collective_bytes": kinds,
        "compile_seconds": program.compile_seconds,
    }
    reporting.write(line)


def table(lines: list[dict]) -> str:
    """Format lines as Markdown: expected time, memory and communication of a step."""
    rows = [
        "| devices | network | images a step | 10^12 operations a device | GiB a device | MiB all-reduced | "
        "MiB of other collectives | compute ms | communication ms | images/s |",
        "|" + "---|" * 10,
    ]
    for line in lines:
        n, kinds = line["devices"], line["collective_bytes"]
        reduced = kinds.get("all-reduce", 0)
        others = sum(kinds.values()) - reduced
        peak = PEAK_BF16 if line["model.dtype"] == "bfloat16" else PEAK_TF32
        compute = line["operations_a_device"] / (EFFICIENCY * peak)
        bandwidth = NVLINK if n <= DEVICES_A_HOST else NETWORK
        communication = (2 * reduced + others) * (n - 1) / n / bandwidth
        images = n * line["images_a_device"]
        rows.append(
            f"| {n} | {line['model.dtype']} | {images} | {line['operations_a_device'] / 1e12:.2f} | "
            f"{line['gibibytes_a_device']:.1f} | {reduced / 2**20:.0f} | {others / 2**20:.1f} | {1e3 * compute:.1f} | "
            f"{1e3 * communication:.1f} | {images / (compute + communication):.0f} |"
        )
    assumptions = (
        f"Expected, not measured: a step of configs/coco.py, vp, K = {CODEBOOK_SIZE}, on NVIDIA H100 SXM. Compute is "
        f"XLA's count of operations at {EFFICIENCY:.0%} of the peak ({PEAK_TF32 / 1e12:.0f} TF32 or "
        f"{PEAK_BF16 / 1e12:.0f} bfloat16, 10^12 operations/s); loops of the neighbour search count as one round, so "
        f"its time is not included. Communication is an all-reduce in a ring, not overlapped with compute, at "
        f"{NVLINK / 1e9:.0f} GB/s within a host of {DEVICES_A_HOST} and {NETWORK / 1e9:.0f} GB/s beyond. Memory is "
        f"XLA's analysis of the program compiled for CPU devices. Reading images is not included."
    )
    return "\n".join([assumptions, "", *rows])


def main(argv: Sequence[str] | None = None) -> int:
    parser = smoke.Parser(__doc__)
    parser.add_argument("--lpips", default="", help="weights of LPIPS; needed without --smoke and --table")
    parser.add_argument("--table", type=pathlib.Path, help="lines that were written before")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="of the network")
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.table:
        print(table([json.loads(line) for line in given.table.read_text().splitlines()]))
        return 0
    if not given.lpips and not given.smoke:
        parser.error("--lpips: name the weights of LPIPS, or give --smoke")
    if given.devices:
        measure(given.lpips, given.devices, given.dtype, is_smoke=given.smoke)
        return 0
    for dtype in given.dtypes:
        for num_devices in SMOKE_DEVICES if given.smoke else NUM_DEVICES:
            words = [sys.executable, "-m", "benchmarks.scaling", "--devices", str(num_devices), "--dtype", dtype]
            words += ["--smoke"] if given.smoke else ["--lpips", given.lpips]
            flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
            environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
            done = subprocess.run(words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout, end="", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
