"""How a program starts and ends: what Ctrl-C and SIGTERM do before its command answers them itself, and afterwards.

A program takes up to a second to import what its command needs, and some time to leave. Nothing is open then, so a
signal ends the process at once, with one line and its exit code, and without what Python would print of it.

This module imports nothing that takes long.
"""

from __future__ import annotations

import atexit
import os
import signal
from contextlib import suppress

from isbi_infer.errors import Interrupted


def stopping_signals() -> list[int]:
    """Return the signals that stop a program: Ctrl-C, SIGTERM, and SIGHUP except under ``nohup``."""
    found: list[int] = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) not in (None, signal.SIG_IGN):
        found.append(hang_up)
    return found


def say(line: str) -> None:
    """Write a line to standard error from within a signal handler, where no stream may be used."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))


class Program:
    """A program that leaves with one line and its exit code whenever a signal comes; a context for all that it does.

    Parameters
    ----------
    name : str
        Begins the line.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._code: int | None = None  # once it is known
        self._signals = stopping_signals()
        atexit.register(self._ignore)  # what is registered first comes last
        for number in self._signals:
            signal.signal(number, self._leave)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SystemExit):
            code = None if error is None else error.code
            self._code = code if isinstance(code, int) else int(code is not None)
        elif isinstance(error, Interrupted):  # as a command gave its answer to signals back
            self._say(error)
            raise SystemExit(self._code) from None

    def _leave(self, number: int, _frame: object) -> None:
        if self._code is None:
            self._say(Interrupted(number))
        os._exit(self._code or 0)

    def _say(self, stopped: Interrupted) -> None:
        say(f"{self._name}: {stopped}")
        self._code = stopped.exit_code

    def _ignore(self) -> None:
        """Let the interpreter end as it would, since it no longer calls handlers."""
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)
