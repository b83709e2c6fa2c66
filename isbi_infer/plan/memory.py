"""How much memory this process may still take: what the machine, its container and its limits leave."""

from __future__ import annotations

import os
import re
import reprlib
import sys
from collections.abc import Iterator
from pathlib import Path

from isbi_infer.errors import UsageError

UNKNOWN = 2 << 30  # assumed where the system does not say, as on Windows; --memory sets the real figure


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process may still take before something on this machine refuses or kills it.

    The least of: the memory that the kernel could free without swapping; for the process's control group and all
    above it, limit minus use, where file caches that can be dropped do not count as used; and what ``ulimit -v``
    leaves. Other processes take theirs in the meantime, so use a part of it only.

    Parameters
    ----------
    root : Path
        The folder that holds ``proc`` and ``sys``.

    Returns
    -------
    int
        Bytes, 0 or more; half the installed memory on systems without ``/proc``, and `UNKNOWN` where not even
        that is known.
    """
    rooms = [
        room for room in (_machine(root), _address_space(root), *_control_groups(root)) if room is not None
    ]
    return max(0, min(rooms, default=UNKNOWN))


def _machine(root: Path) -> int | None:
    """Return what the kernel could free; half of all there is where it does not tell."""
    kilobytes = _fields(root / "proc" / "meminfo").get("MemAvailable")
    if kilobytes is not None:
        return kilobytes * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows; a system without these names
        return None


def _address_space(root: Path) -> int | None:
    """Subtract from the limit on this process's address space what it already takes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return limit - _fields(root / "proc" / "self" / "status").get("VmSize", 0) * 1024


def _control_groups(root: Path) -> Iterator[int]:
    """Yield what each control group above this process leaves, in versions 2 and 1."""
    mount = root / "sys" / "fs" / "cgroup"
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            files = ("memory.max", "memory.current", "inactive_file")
            tops = [mount, mount / "unified"]
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            tops = [mount / "memory"]
        else:
            continue
        for top in tops:
            # In a container its own group is often mounted as the top, and the path is that of the host.
            inside = top / group.lstrip("/")
            for folder in (inside, *inside.parents):
                yield from _group(folder, *files)
                if folder == top:
                    break


def _group(folder: Path, limit_file: str, usage_file: str, dropped_cache: str) -> Iterator[int]:
    limit, usage = _read(folder / limit_file).strip(), _read(folder / usage_file).strip()
    if limit.isdecimal() and usage.isdecimal():  # "max" is no limit
        yield int(limit) - int(usage) + _fields(folder / "memory.stat").get(dropped_cache, 0)


def _fields(path: Path) -> dict[str, int]:
    """Read lines of a name and a number, such as ``MemAvailable:  23785968 kB``."""
    found = {}
    for line in _read(path).splitlines():
        name, *values = line.replace(":", " ", 1).split() or [""]
        if values and values[0].isdecimal():
            found[name] = int(values[0])
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def parse_bytes(text: str) -> int:
    """Read an amount of memory as people write it.

    Parameters
    ----------
    text : str
        A number and a unit: "4GiB", "4G", "512 MiB", "2.5gb"; without a unit, bytes. K, M, G and T are powers of 1024
        with and without "iB", and powers of 1000 with "B".

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    UsageError
        If this is no such amount, or none above zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)\s*", text.lower())
    if not match or (match[3] == "i"):
        raise UsageError(f"{text!r} is no amount of memory; write it like 4GiB or 800MB")
    power = " kmgt".index(match[2] or " ")
    size = float(match[1]) * (1000 if match[2] and match[3] == "b" else 1024) ** power
    if size > sys.maxsize:
        raise UsageError(f"{reprlib.repr(text)} is beyond any machine; write it like 4GiB or 800MB")
    if size < 1:
        raise UsageError(f"{text!r} is no memory at all; write it like 4GiB or 800MB")
    return int(size)
