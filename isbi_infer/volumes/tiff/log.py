"""What tifffile only writes to its log, for the code that has to act on it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_logger = logging.getLogger("tifffile")
_guard = threading.Lock()
_users = 0


class _Caught(threading.local):
    errors: list[str] | None = None


_caught = _Caught()


def _catch(record: logging.LogRecord) -> bool:
    if _caught.errors is None:  # of a thread that reads TIFFs by itself
        return True
    if record.levelno >= logging.ERROR:
        _caught.errors.append(record.getMessage())
    return False


@contextmanager
def tifffile_errors() -> Iterator[list[str]]:
    """Catch tifffile's log records of this thread; other threads' go where they went.

    Yields
    ------
    list of str
        The messages of level ERROR and above, growing. Those below are dropped.
    """
    global _users
    outer, _caught.errors = _caught.errors, []
    with _guard:
        _users += 1
        if _users == 1:
            # First in line, and a new list, since other threads may be going through the old one.
            _logger.filters = [_catch, *_logger.filters]
    try:
        yield _caught.errors
    finally:
        _caught.errors = outer
        with _guard:
            _users -= 1
            if _users == 0:
                _logger.filters = [each for each in _logger.filters if each is not _catch]
