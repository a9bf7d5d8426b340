"""What a figure was measured on."""

from __future__ import annotations

import os
import platform

import jax


def machine() -> dict[str, str | int]:
    """Devices, cores and versions, for people to read."""
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
