"""How a command line ends: errors as one line and an exit code, notes, signals."""

from __future__ import annotations

import errno
import importlib.util
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from isbi_infer._version import __version__
from isbi_infer.errors import DependencyError, Interrupted, IsbiError, ResourceError, UsageError
from isbi_infer.headroom import is_lack_of_memory
from isbi_infer.terminal.signals import Stopping, stopped_by_signals
from isbi_infer.terminal.streams import standard_streams
from isbi_infer.terminal.words import printable, shown

_OUT_OF_REACH = (
    errno.EACCES,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)  # of a name that was looked at before it was opened


@contextmanager
def exit_codes(program: str, *, debug: bool = False) -> Iterator[None]:
    """Run a command: whatever goes wrong becomes one line on standard error and an exit code.

    File names that the terminal's encoding does not hold, and control characters out of files, are shown as escapes.
    No work ends because its output is closed, full or no longer read, see `standard_streams`; nor because a terminal
    hangs up under ``nohup``.

    Parameters
    ----------
    program : str
        Named at the start of the line.
    debug : bool
        Show the traceback too.

    Raises
    ------
    SystemExit
        With the code of an `IsbiError`; 7 where memory ran out, 129, 130 or 143 when interrupted, 1 for what nobody
        foresaw.
    """
    with (
        stopped_by_signals(program) as stopping,
        _ended(program, debug, stopping),
        standard_streams(),
        _ended(program, debug, stopping),
        printed_log("isbi_infer", logging.WARNING, f"{program}: note: "),
    ):
        yield


@contextmanager
def _ended(program: str, debug: bool, stopping: Stopping) -> Iterator[None]:
    """Make one line on standard error and an exit code of whatever goes wrong."""
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        stopped = error if isinstance(error, Interrupted) else stopping.by
        if stopped is not None and not stopping.answered:  # also where it became something else on its way
            stopping.answered = True
            _leave(program, str(stopped), stopped.exit_code, debug)
        if not isinstance(error, Exception):
            raise
        _explain(program, error, debug)


def _explain(program: str, error: Exception, debug: bool) -> NoReturn:
    if isinstance(error, IsbiError):
        _leave(program, str(error), error.exit_code, debug)
    if isinstance(error, BrokenPipeError):  # of a stream that is none of ours, whose reader has left
        raise SystemExit(0) from None
    if is_lack_of_memory(error):
        reason = "not enough memory; use smaller sections, or a machine with more of it"
        _leave(program, reason, ResourceError.exit_code, debug)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        reason = "too many files are open; raise the limit (ulimit -n 1024)"
        _leave(program, reason, ResourceError.exit_code, debug)
    if isinstance(error, OSError) and error.errno in _OUT_OF_REACH and isinstance(error.filename, str):
        reason = f"{error.filename}: cannot be reached ({error.strerror}); check the name, and who may read its folder"
        _leave(program, reason, UsageError.exit_code, debug)
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    reason = (
        f"something unforeseen went wrong ({reason}); this is a fault of isbi-infer {__version__}: run it again "
        "with --debug and report what it prints, with the command"
    )
    _leave(program, reason, 1, debug)


def _leave(program: str, reason: str, code: int, debug: bool) -> NoReturn:
    if debug:
        print(shown(traceback.format_exc()), end="", file=sys.stderr)
    _report(program, reason)
    raise SystemExit(code) from None


def _report(program: str, message: str) -> None:
    print(f"{program}: {printable(message)}", file=sys.stderr)


@contextmanager
def printed_log(name: str, level: int, prefix: str = "") -> Iterator[None]:
    """Print what a package logs to standard error, a line each, above what is shown of progress.

    Within another one of the same package the inner one prints alone.

    Parameters
    ----------
    name : str
        Of the package.
    level : int
        The least that is printed.
    prefix : str
        Begins each line.
    """
    logger, printed = logging.getLogger(name), _Printed(prefix)
    before, around = logger.level, [handler for handler in logger.handlers if isinstance(handler, _Printed)]
    printed.setLevel(level)
    logger.setLevel(min(level, logger.getEffectiveLevel()))
    for handler in around:
        logger.removeHandler(handler)
    logger.addHandler(printed)
    try:
        yield
    finally:
        logger.removeHandler(printed)
        for handler in around:
            logger.addHandler(handler)
        logger.setLevel(before)


class _Printed(logging.Handler):
    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{self._prefix}{printable(record.getMessage())}", file=sys.stderr, flush=True)


def require_packages(extra: str, *packages: str) -> None:
    """Raise DependencyError, saying what to install, unless all packages of an extra are there.

    Parameters
    ----------
    extra : str
        The extra of this distribution that brings them.
    *packages : str
        Import names.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise DependencyError(f"{', '.join(missing)} not installed; run: pip install 'isbi-infer[{extra}]'")
