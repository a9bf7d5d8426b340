"""The environment of a process: flags of XLA, memory of the C library, cores, and what a metric was measured on."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import os
import pathlib
import platform

import psutil

_CPU_FUSION_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# What XLA leaves to YNNPACK: nothing (Eigen computes it), or convolutions, which YNNPACK computes with one core unless
# they are huge. Never LIBRARY_FUSION_TYPE_DOT, the default of jaxlib 0.10.2: it reads beyond the end of a broadcast
# right operand of a product.
_ON_MANY_CORES = ""
_ON_ONE_CORE = "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
# XLA aborts the process on a flag it does not know, so only versions that were tried are listed.
_JAXLIB_VERSIONS = ("0.10.2",)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = -1
_MIN_COMPILE_SECONDS = 0.5  # of a program that is stored
_MAX_CACHE_BYTES = 2 * 2**30  # of all


def prepare() -> None:
    """Set up a process that will train or evaluate; call before the first use of a JAX backend."""
    keep_freed_memory()
    set_cpu_flags()
    store_programs()


def set_cpu_flags() -> None:
    """Add the flag that makes convolutions fast on CPU to XLA_FLAGS. What the user set is never overridden.

    The training step of configs/photos.py without quantizer takes 40 ms instead of 70 on two cores of an AMD EPYC and
    79 ms instead of 99 on one (jax 0.10.2, 2026-11-25). GPUs and TPUs ignore the flag.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    is_known = importlib.metadata.version("jaxlib") in _JAXLIB_VERSIONS
    is_file = bool(flags.strip()) and not flags.strip().startswith("-")  # XLA then reads its flags from there
    if is_known and not is_file and _CPU_FUSION_FLAG not in flags:
        value = _ON_MANY_CORES if num_cores() > 1 else _ON_ONE_CORE
        os.environ["XLA_FLAGS"] = f"{flags} {_CPU_FUSION_FLAG}={value}".strip()


def keep_freed_memory() -> None:
    """Have glibc keep large freed buffers instead of returning them to the system.

    XLA's CPU backend allocates its temporaries again in each step. If they were returned, every page would be faulted
    in and zeroed again: the training step of configs/speech.py takes 0.19 s instead of 0.28 on two cores of an AMD
    EPYC, that of configs/photos.py 48 ms instead of 51 (jax 0.10.2, 2026-11-25). The process keeps its peak size. Does
    nothing with another C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_MAX, 0)  # large buffers too come from the heap ...
    library.mallopt(_M_TRIM_THRESHOLD, _NEVER)  # ... and its end is never cut off


def store_programs() -> None:
    """Have JAX store compiled programs, so that a later start with the same settings does not compile them again.

    They go to `vpvae_jax/compiled` below XDG_CACHE_HOME or `~/.cache`, by kind of processor and number of cores, which
    they are made for. Nothing is stored where that cannot be written. JAX_COMPILATION_CACHE_DIR names another place,
    JAX_ENABLE_COMPILATION_CACHE=0 stores none.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        named = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
        root = (named if named.is_absolute() else pathlib.Path("~/.cache").expanduser()) / "vpvae_jax" / "compiled"
        folder = root / _processor()
        folder.mkdir(parents=True, exist_ok=True)
        _delete_oldest(root)
    except (OSError, RuntimeError):  # no home, or one that is not ours
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)


def _delete_oldest(root: pathlib.Path) -> None:
    """Delete the oldest programs while all are larger than allowed."""
    files = sorted((path for path in root.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime)
    excess = sum(path.stat().st_size for path in files) - _MAX_CACHE_BYTES
    for path in files:
        if excess <= 0:
            return
        excess -= path.stat().st_size
        path.unlink()


def _processor() -> str:
    """A name for what a program is compiled for: the instructions of this processor, and the cores."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}-{num_cores()}"


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_bytes() -> int:
    """Memory of this process."""
    return psutil.Process().memory_info().rss


def machine() -> dict[str, str | int]:
    """Devices, cores and versions, for people to read."""
    import jax

    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
