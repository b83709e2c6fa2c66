"""How a command line ends: errors as one line and an exit code, notes, signals."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from isbi_infer._version import __version__
from isbi_infer.errors import DependencyError, Interrupted, IsbiError, ResourceError
from isbi_infer.terminal.words import printable, shown


@contextmanager
def exit_codes(program: str, *, debug: bool = False) -> Iterator[None]:
    """Run a command: whatever goes wrong becomes one line on standard error and an exit code.

    File names that the terminal's encoding does not hold, and control characters out of files, are shown as escapes.

    Parameters
    ----------
    program : str
        Named at the start of the line.
    debug : bool
        Show the traceback too.

    Raises
    ------
    SystemExit
        With the code of an `IsbiError`; 7 where memory ran out, 130 or 143 when interrupted, 1 for what nobody foresaw.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    printed = sys.stdout
    sys.stdout = _Shown(printed)  # as much of a stream as what it stands for
    try:
        with printed_log("isbi_infer", logging.WARNING, f"{program}: note: "):
            yield
        sys.stdout.flush()
    except (IsbiError, Interrupted) as error:
        if debug:
            print(shown(traceback.format_exc()), end="", file=sys.stderr)
        _report(program, str(error))
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        # Whoever read our output has left (`| head`): leave too, and keep the interpreter from flushing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except MemoryError:
        if debug:
            print(shown(traceback.format_exc()), end="", file=sys.stderr)
        _report(program, "not enough memory; use smaller sections, or a machine with more of it")
        raise SystemExit(ResourceError.exit_code) from None
    except Exception as error:
        if debug:
            print(shown(traceback.format_exc()), end="", file=sys.stderr)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _report(
            program,
            f"something unforeseen went wrong ({reason}); this is a fault of isbi-infer {__version__}: run it again "
            "with --debug and report what it prints, with the command",
        )
        raise SystemExit(1) from None
    finally:
        sys.stdout = printed
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Shown:
    """Standard output of a command, through which all goes that it prints: names and metadata show as `shown`."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._colours = stream, stream.isatty()

    def write(self, text: str) -> int:
        self._stream.write(shown(text, colours=self._colours))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _report(program: str, message: str) -> None:
    print(f"{program}: {printable(message)}", file=sys.stderr)


@contextmanager
def printed_log(name: str, level: int, prefix: str = "") -> Iterator[None]:
    """Print what a package logs to standard error, a line each, above what is shown of progress.

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
    before = logger.level
    printed.setLevel(level)
    logger.setLevel(min(level, logger.getEffectiveLevel()))
    logger.addHandler(printed)
    try:
        yield
    finally:
        logger.removeHandler(printed)
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


def _interrupt(signal_number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(signal_number)
