"""Settings of XLA on CPU: the flag that makes convolutions fast, and dispatch that cannot wait for itself."""

from __future__ import annotations

import importlib.metadata
import os

import jax

_CPU_CONVOLUTION_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_CPU_CONVOLUTION_VALUE = "LIBRARY_FUSION_TYPE_DOT"
# XLA aborts the process on a flag it does not know, so only versions that were tried are listed.
_JAXLIB_VERSIONS = ("0.10.2",)


def set_cpu_flags() -> None:
    """Set both; call before the first use of a JAX backend. What the user set is never overridden.

    The flag nearly halves the time of a convolutional training step on CPU. With asynchronous dispatch the arguments
    of a host callback (the tree search) can wait for a thread that the program itself occupies: on one core a run
    stood still for ever (jax-ml/jax issue 24255). Neither means anything to GPUs and TPUs.
    """
    if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    flags = os.environ.get("XLA_FLAGS", "")
    is_known = importlib.metadata.version("jaxlib") in _JAXLIB_VERSIONS
    if is_known and _CPU_CONVOLUTION_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_CPU_CONVOLUTION_FLAG}={_CPU_CONVOLUTION_VALUE}".strip()
