"""What the three command lines share: errors as one line and an exit code, signals, and progress."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from isbi_infer._version import __version__
from isbi_infer.errors import DependencyError, Interrupted, IsbiError, ResourceError

_PLAIN_INTERVAL_S = 2.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


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
    notes = _Notes(program)
    logging.getLogger("isbi_infer").addHandler(notes)
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    printed = sys.stdout
    sys.stdout = _Shown(printed)  # as much of a stream as what it stands for
    try:
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
        logging.getLogger("isbi_infer").removeHandler(notes)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _report(program: str, message: str) -> None:
    print(f"{program}: {printable(message)}", file=sys.stderr)


def printable(text: str) -> str:
    """Return a text with its control characters as escapes: what stands in files must not steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(text: str, *, colours: bool = False) -> str:
    """Return a text of several lines with all other control characters as escapes; colours stay where they may."""
    if colours:
        between, ours = _COLOUR.split(text), [*_COLOUR.findall(text), ""]
        return "".join(shown(part) + colour for part, colour in zip(between, ours, strict=True))
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


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


class _Notes(logging.Handler):
    """Prints warnings of the library as notes, a line each."""

    def __init__(self, program: str) -> None:
        super().__init__(logging.WARNING)
        self._program = program

    def emit(self, record: logging.LogRecord) -> None:
        _report(self._program, f"note: {record.getMessage()}")


def one_line(error: BaseException) -> str:
    """Return an error's kind and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: "1 section", "30 sections"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


@contextmanager
def section_progress(megapixels_per_section: float, *, quiet: bool) -> Iterator[SectionProgress]:
    """Show sections done, megapixels per second and time left on standard error.

    Parameters
    ----------
    megapixels_per_section : float
        Input pixels of one section / 1e6.
    quiet : bool
        Show nothing.

    Yields
    ------
    SectionProgress
        To be called with (sections done, total); a bar on a terminal, plain lines elsewhere.
    """
    if quiet:
        yield SectionProgress()
    elif sys.stderr.isatty():
        yield from _bar(megapixels_per_section)
    else:
        yield _PlainProgress(megapixels_per_section)


class SectionProgress:
    """Takes note of sections done; this one shows nothing."""

    def __call__(self, done: int, total: int) -> None:
        """Take note that `done` of `total` sections are finished."""


class _PlainProgress(SectionProgress):
    """A line every few seconds, for logs."""

    def __init__(self, megapixels_per_section: float) -> None:
        self._megapixels = megapixels_per_section
        self._started = self._said = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if now - self._said < _PLAIN_INTERVAL_S and done < total:
            return
        self._said = now
        speed = done * self._megapixels / (now - self._started)
        left = (total - done) * (now - self._started) / done
        print(f"section {done}/{total}, {speed:.2f} Mpx/s, {left:.0f} s left", file=sys.stderr, flush=True)


def _bar(megapixels_per_section: float) -> Iterator[SectionProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("sections"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.2f} Mpx/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, speed=0.0)
        started = time.perf_counter()

        class Bar(SectionProgress):
            def __call__(self, done: int, total: int) -> None:
                speed = done * megapixels_per_section / (time.perf_counter() - started)
                progress.update(task, completed=done, total=total, speed=speed)

        yield Bar()
