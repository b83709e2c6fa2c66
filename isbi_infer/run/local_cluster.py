"""A Dask cluster on this machine: its processes started, or one error that says why they cannot be."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isbi_infer.backends.cores import available_cores
from isbi_infer.errors import DependencyError, IsbiError, ResourceError, UsageError
from isbi_infer.headroom import is_lack_of_memory
from isbi_infer.terminal import one_line

_FILES, _FILES_OF_A_WORKER = 24, 9  # that this process opens, as distributed 2026.8 does on Linux
_WITHOUT_GUARD = (
    "the processes of --cluster local import the program that starts them, and would start others: put what it does "
    'below if __name__ == "__main__":'
)


@contextmanager
def started(distributed: Any, workers: int) -> Iterator[Any]:
    """Start a cluster on this machine, and end it on leaving.

    Parameters
    ----------
    distributed : module
        Dask's.
    workers : int
        How many processes.

    Yields
    ------
    distributed.LocalCluster

    Raises
    ------
    DependencyError
        If it cannot be started.
    ResourceError
        If memory or open files do not suffice.
    UsageError
        If the program that asks for it does so while its processes import it.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing asks itself
        raise UsageError(_WITHOUT_GUARD)
    _check_open_files(workers)
    try:
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=max(1, available_cores() // workers),
            processes=True,
            dashboard_address="127.0.0.1:0",  # None would be the port 8787, which may be taken
            silence_logs=logging.CRITICAL,
        )
    except Exception as error:  # Dask's have no base in common
        raise _why_not(error, workers) from error
    with cluster:
        yield cluster


def _check_open_files(workers: int) -> None:
    """Raise ResourceError where so few files may be opened that Dask would try for ever, and print each try."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    left = limit - len(os.listdir("/dev/fd"))
    needed = _FILES + _FILES_OF_A_WORKER * workers
    if limit != resource.RLIM_INFINITY and left < needed:
        raise _too_few_files(
            workers, f"it takes {needed} open files here, and the limit leaves {max(0, left)}"
        )


def _too_few_files(workers: int, found: str) -> ResourceError:
    return ResourceError(
        f"--cluster local:{workers} cannot be started: {found}; raise the limit (ulimit -n), or use fewer processes"
    )


def _why_not(error: Exception, workers: int) -> IsbiError:
    """Return what to say of a cluster that could not be started."""
    came_from = list(_came_from(error))
    if any(isinstance(e, OSError) and e.errno in (errno.EMFILE, errno.ENFILE) for e in came_from):
        return _too_few_files(workers, "too many files are open")
    if any(map(is_lack_of_memory, came_from)):
        return ResourceError(
            f"--cluster local:{workers} cannot be started for lack of memory or of processes that may be started "
            "(ulimit -v, ulimit -u); free some, or use fewer processes"
        )
    if _has_no_guard():
        return UsageError(_WITHOUT_GUARD)
    return DependencyError(
        f"--cluster local:{workers} cannot be started ({one_line(came_from[-1])}); what its processes say stands above"
    )


def _came_from(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _has_no_guard() -> bool:
    """Return whether the program is a script that does not ask for its name, so that importing it does its work."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or getattr(main, "__spec__", None) is not None:
        return False
    try:
        return "__name__" not in Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
