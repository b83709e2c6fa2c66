"""What a figure was measured on: the machine, its load, and the versions of what ran."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
from typing import Any

from isbi_infer.backends.cores import available_cores, processor_name
from isbi_infer.backends.nvidia import list_gpus

_DISTRIBUTIONS = (
    "isbi-infer",
    "numpy",
    "tifffile",
    "zarr",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "openvino",
    "monai",
    "bioimageio.core",
)
OTHERS = 0.5  # load average beyond our own threads, up to which a machine counts as idle


def machine() -> dict[str, Any]:
    """Return what this machine is."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    found = {
        "cpu": processor_name(),
        "cores": available_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    return found | ({"gpus": names} if (names := gpus()) else {})


@functools.cache
def gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs; none where the driver's own program is not there."""
    return [line.partition(", driver ")[0] for line in list_gpus()]


def versions() -> dict[str, str]:
    """Return the versions of what is installed of this project, its runtimes and its peers."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def load_average() -> float:
    """Return how many processes wanted to run over the last minute; 0 where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def slug() -> str:
    """Return the machine's name in file names: its GPU, where it has one, its processor and its cores."""
    model = re.sub(r"\(.*?\)|@.*|\bCPU\b|\bProcessor\b", " ", processor_name())
    names = " ".join([*gpus()[:1], model, str(os.cpu_count()), "cores"])
    return re.sub(r"[^a-z0-9]+", "-", names.lower()).strip("-")
