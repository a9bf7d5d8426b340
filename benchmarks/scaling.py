"""What a step of configs/coco.py costs on 1, 8, 64 and 256 devices, on paper: from XLA's analysis, nothing is run.

python -m benchmarks.scaling --lpips lpips.safetensors > results/benchmarks/scaling.jsonl
python -m benchmarks.scaling --table results/benchmarks/scaling.jsonl > results/benchmarks/scaling.md

The step is compiled for that many devices of a CPU, with the neighbour search of accelerators. Operations and
collectives are those of XLA's program for one device. Times are arithmetic with the assumptions below.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys

NUM_DEVICES = (1, 8, 64, 256)
IMAGES_A_DEVICE = 4
CODEBOOK_SIZE = 16384
# NVIDIA's data sheet of the H100 SXM; 400 Gb/s InfiniBand for each between hosts of eight.
PEAK_TF32, PEAK_BF16 = 494.7e12, 989.4e12  # operations a second, dense
NVLINK, NETWORK = 450e9, 50e9  # bytes a second and device, each direction
DEVICES_A_HOST = 8
EFFICIENCY = 0.4  # share of the peak that convolutions reach: assumed, not measured
_GIBIBYTE = 2**30


def measure(lpips: str, num_devices: int, dtype: str) -> None:
    """Print a line of what XLA says of the step on so many devices; for a process that has them."""
    from benchmarks import reporting
    from benchmarks.collectives import collectives, search_in_xla
    from benchmarks.memory import CONFIG
    from vpvae_jax.config_arguments import load_config
    from vpvae_jax.training import loop

    values = {
        "train.batch_size": IMAGES_A_DEVICE * num_devices,
        "loss.lpips_weights": lpips,
        "model.dtype": dtype,
    }
    config = load_config(CONFIG, f"quantizer=vp,codebook_size={CODEBOOK_SIZE}", values)
    with search_in_xla():
        program = loop.compile_program(config)
    step, analysis = program.step, program.step.memory_analysis()
    kinds: dict[str, int] = {}
    for collective in collectives(step.as_text()):
        kinds[collective.kind] = kinds.get(collective.kind, 0) + collective.num_bytes
    total = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes  # outputs take the place of arguments
    line = {
        "what": "a step of configs/coco.py, quantizer vp, on paper",
        "devices": num_devices,
        "images_a_device": IMAGES_A_DEVICE,
        "codebook_size": CODEBOOK_SIZE,
        "model.dtype": dtype,
        "operations_a_device": float(step.cost_analysis()["flops"]),
        "gibibytes_a_device": total / _GIBIBYTE,
        "collective_bytes": kinds,
        "compile_seconds": program.compile_seconds,
    }
    reporting.write(line)


def table(lines: list[dict]) -> str:
    """Markdown: expected time, memory and communication of a step."""
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
        f"its time is not in it. Communication is an all-reduce in a ring, nothing of it hidden behind compute, at "
        f"{NVLINK / 1e9:.0f} GB/s within a host of {DEVICES_A_HOST} and {NETWORK / 1e9:.0f} GB/s beyond. Memory is "
        f"XLA's analysis of the program compiled for CPU devices. Reading images is not in it."
    )
    return "\n".join([assumptions, "", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lpips", help="weights of LPIPS, see README")
    parser.add_argument("--table", type=pathlib.Path, help="lines that were written before")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="of the network")
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.table:
        print(table([json.loads(line) for line in given.table.read_text().splitlines()]))
    elif given.devices:
        measure(given.lpips, given.devices, given.dtype)
    else:
        for dtype in given.dtypes:
            for num_devices in NUM_DEVICES:
                words = [sys.executable, "-m", "benchmarks.scaling", "--lpips", given.lpips]
                flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
                environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
                subprocess.run([*words, "--devices", str(num_devices), "--dtype", dtype], env=environment, check=True)


if __name__ == "__main__":
    main()
