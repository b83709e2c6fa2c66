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


_most: int | None = None


def use_cores(count: int | None) -> None:
    """Let this process use no more than so many cores for what is opened from now on; None for all it may."""
    global _most
    _most = count


def available_cores() -> int:
    """Return the number of processor cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return allowed if _most is None else max(1, min(_most, allowed))


@functools.cache
def processor_kind() -> str:
    """Return the processor's architecture and the extensions by which runtimes choose kernels.

    Results are the same to the bit on processors of one kind, as far as runtimes go by extensions alone.
    """
    fields = _cpuinfo()
    flags = {
        flag for name in ("flags", "Features") for value in fields.get(name, ()) for flag in value.split()
    }
    found = [name for name in _EXTENSIONS if name in flags]
    return " ".join((platform.machine(), *fields.get("vendor_id", ())[:1], *found)) or platform.processor()


def reduced_float32() -> str:
    """Return the environment variable that tells oneDNN to compute float32 in less, with its value; empty if none.

    oneDNN reads it once a process, and torch has no switch that goes before it.
    """
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
        if os.environ.get(name, "").upper() not in ("", "STRICT"):
            return f"{name}={os.environ[name]}"
    return ""


def processor_name() -> str:
    """Return the name by which the processor is sold; its architecture where the system does not tell."""
    names = _cpuinfo().get("model name", ())
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo() -> dict[str, tuple[str, ...]]:
    """Read what Linux knows of the processors: the different values of each field, none elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    fields: dict[str, tuple[str, ...]] = {}
    for line in lines:
        name, _, value = (part.strip() for part in line.partition(":"))
        if value and value not in fields.get(name, ()):
            fields[name] = (*fields.get(name, ()), value)
    return fields
