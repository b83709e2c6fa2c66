"""Standard output and standard error of a command, which may be closed, full, or left by whoever read them.

A result goes into a file; what is printed is about it. So no work ends because something cannot be printed.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from isbi_infer.errors import OutputError
from isbi_infer.terminal.words import shown

_LEFT = (errno.EPIPE, errno.ECONNRESET)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Print through streams that never end the work; the ones before are there again afterwards.

    What is printed to standard output shows control characters as escapes. A stream that is closed swallows what goes
    to it, and so does standard output whose reader has left (``| head``), and standard error that cannot be written.

    Raises
    ------
    OutputError
        On leaving with success, if something of standard output could not be written (a full disk).
    """
    if isinstance(sys.stdout, _Printed):  # a command within a command
        yield
        return
    before = sys.stdout, sys.stderr
    _occupy()
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    printed = _Printed(before[0] or _nowhere())
    sys.stdout, sys.stderr = printed, _Said(before[1] or _nowhere())
    try:
        try:
            yield
        except SystemExit as left:
            if left.code:
                raise
            printed.check()
            raise
        printed.check()
    finally:
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    """Open the closed ones of the first three files, so that no output becomes one, into which libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _nowhere() -> io.TextIOBase:
    return open(os.devnull, "w", encoding="utf-8")


class _Lenient:
    """A stream whose failure is kept and not raised; after it nothing is written any more."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure = ""

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, act: Any) -> None:
        try:
            act()
        except OSError as error:
            if error.errno not in _LEFT:
                self.failure = error.strerror or type(error).__name__
            with suppress(OSError):  # also what is still in its buffer goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Said(_Lenient):
    """Standard error: what cannot be said is lost."""


class _Printed(_Lenient):
    """Standard output, through which all goes that a command prints: names and metadata show as `shown`."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._colours = stream.isatty()

    def check(self) -> None:
        """Raise OutputError if something could not be written."""
        self.flush()
        if self.failure:
            raise OutputError(
                f"standard output: cannot be written ({self.failure}); what was written to files is whole"
            )

    def write(self, text: str) -> int:
        super().write(shown(text, colours=self._colours))
        return len(text)
