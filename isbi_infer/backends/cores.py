"""The processor: how many cores this process may use, and of what kind they are."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

# What kernels are chosen by, and so what the last bits of a result depend on.
_EXTENSIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "sve",
    "asimd",
)


def available_cores() -> int:
    """Return the number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def processor_kind() -> str:
    """Return the processor's architecture and the extensions by which runtimes choose kernels.

    Results are the same to the bit on processors of one kind, as far as runtimes go by extensions alone.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags: set[str] = set()
    vendor = ""
    for line in lines:
        name, _, value = (part.strip() for part in line.partition(":"))
        if name in ("flags", "Features"):
            flags |= set(value.split())
        elif name == "vendor_id":
            vendor = value
    found = [name for name in _EXTENSIONS if name in flags]
    return " ".join((platform.machine(), *filter(None, (vendor,)), *found)) or platform.processor()
