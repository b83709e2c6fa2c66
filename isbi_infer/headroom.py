"""Too little memory, where a library says it otherwise or would end the process of it.

Below a limit (``ulimit -v``, a batch system's) whatever asks next fails, each in words of its own: a library that
cannot be loaded, a thread that cannot be started. Threads that C++ starts end the process where they cannot be.
"""

from __future__ import annotations

import re
import sys

from isbi_infer.errors import ResourceError

# The last two are oneDNN and protobuf, which do not say why; seen where an allocation of their own failed.
_SAYS_SO = re.compile(
    r"bad[_ ]alloc(?!ator)|out of memory|cannot allocate memory|can(no|')t (alloc|start new thread)|failed to allocate|"
    r"failed to map segment from shared object(?!: (operation|permission))|resource temporarily unavailable|"
    r"could not (create|execute) a primitive(?! descriptor)|failed to serialize proto",
    re.I,
)
THREADS = 2**27
"""Bytes that the threads of a runtime or of a reader take before they do anything, stacks and all."""

_TORCH = 9 * 2**26  # bytes; its libraries ended the process where there were less, on a processor alone


def says_lack_of_memory(text: str) -> bool:
    """Return whether a library's message says that memory or threads ran out."""
    return _SAYS_SO.search(text) is not None


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether an exception, or one that it came from, says that memory or threads ran out."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError):
            return True
        if says_lack_of_memory(str(seen)) and not isinstance(seen, BlockingIOError):  # of a pipe
            return True
        seen = seen.__cause__
    return False


def has_headroom(size: int) -> bool:
    """Return whether the process may take so many bytes more; they are not touched."""
    import numpy as np

    try:
        np.empty(size, np.uint8)
    except MemoryError:
        return False
    return True


def check_headroom(user: str, size: int = THREADS) -> None:
    """Raise ResourceError unless the process may take so many bytes more.

    Parameters
    ----------
    user : str
        What needs them.
    size : int
        In bytes.
    """
    if not has_headroom(size):
        raise ResourceError(f"not enough memory for {user}")


def check_headroom_of_torch() -> None:
    """Raise ResourceError where torch is not loaded yet and its libraries would end the process on the way."""
    if "torch" not in sys.modules:
        check_headroom("torch; raise the limit on it (ulimit -v)", _TORCH)
