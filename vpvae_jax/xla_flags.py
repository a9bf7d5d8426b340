"""The XLA flag that makes convolutions fast on CPU."""

from __future__ import annotations

import importlib.metadata
import os

_CPU_FUSION_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# What is left to YNNPACK: nothing (Eigen does it), or convolutions, which it does with one core unless they are huge.
# Never LIBRARY_FUSION_TYPE_DOT, which jaxlib 0.10.2 does by default: it reads beyond the end of a broadcast right
# operand of a product.
_ON_MANY_CORES = ""
_ON_ONE_CORE = "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
# XLA aborts the process on a flag it does not know, so only versions that were tried are listed.
_JAXLIB_VERSIONS = ("0.10.2",)


def set_cpu_flags() -> None:
    """Add the flag to XLA_FLAGS; call before the first use of a JAX backend. What the user set is never overridden.

    The training step of configs/photos.py without quantizer takes 40 ms instead of 70 on two cores of an AMD EPYC and
    79 ms instead of 99 on one (jax 0.10.2, 2026-11-25). It means nothing to GPUs and TPUs.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    is_known = importlib.metadata.version("jaxlib") in _JAXLIB_VERSIONS
    is_file = bool(flags.strip()) and not flags.strip().startswith("-")  # XLA then reads its flags from there
    if is_known and not is_file and _CPU_FUSION_FLAG not in flags:
        value = _ON_MANY_CORES if _num_cores() > 1 else _ON_ONE_CORE
        os.environ["XLA_FLAGS"] = f"{flags} {_CPU_FUSION_FLAG}={value}".strip()


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
