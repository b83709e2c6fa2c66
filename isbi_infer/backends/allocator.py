"""How the C library hands out memory in this process: so that what a long run holds does not grow with its length."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8  # mallopt(3)
_BY_USER = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def share_one_arena() -> bool:
    """Let all threads of this process take memory from one arena, with glibc; elsewhere nothing is done.

    By default each thread gets an arena of its own, up to eight a core, and each keeps what was freed in it: a run over
    many sections then grows for hours. For programs of ours, which own their process; a library that is imported leaves
    this to whoever imports it. What the environment says of it (``MALLOC_ARENA_MAX``, ``GLIBC_TUNABLES``) is kept.

    Returns
    -------
    bool
        Whether it was done.
    """
    if any(name in os.environ for name in _BY_USER):
        return False
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # Windows, macOS, musl
        return False
    return libc.startswith("glibc") and ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1) == 1
