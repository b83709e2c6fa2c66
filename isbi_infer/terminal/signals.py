"""Ctrl-C and SIGTERM while a command works: `Interrupted` is raised in the main thread, and comes through.

An exception that a signal raises anywhere may be lost, and then the command would go on: within an import, where
libraries take it for something else, within a finaliser or a callback, where Python prints a traceback and drops it,
and within compiled code that clears it. So a signal waits until an import is over, and what was lost is raised again.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from isbi_infer.errors import Interrupted
from isbi_infer.start import say, stopping_signals

_AGAIN = 0.02  # seconds
_WATCHED = 0.25  # seconds
_PATIENCE = 2.0  # seconds that a signal waits for an import


class Stopping:
    """Answers the signals that stop a command: the first one ends its work, the third one the process.

    A second one is not raised, since it would keep the first from leaving everything as it was.

    Parameters
    ----------
    program : str
        Begins what is said.

    Attributes
    ----------
    by : Interrupted or None
        What was raised.
    answered : bool
        Whether the user was told.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._asked_again = False
        self._importing_since: float | None = None
        self._on_its_way = False
        self.by: Interrupted | None = None
        self.answered = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        impatient = self._on_its_way
        if self.by is not None:
            self._leave_at_once(self.by)
        elif self._is_to_wait(frame) and not impatient:
            self.send_again(number)
        else:
            self.by = Interrupted(number)
            _thread.start_new_thread(self._watch, (number,))
            raise self.by

    def send_again(self, number: int) -> None:
        """Send a signal to the main thread, a little later."""
        if not self._on_its_way:
            self._on_its_way = True
            _thread.start_new_thread(self._send, (number,))  # `threading` takes locks, which may be held here

    def _send(self, number: int) -> None:
        time.sleep(_AGAIN)
        self._on_its_way = False
        _raise_in_main(number)

    def _watch(self, number: int) -> None:
        """Send the signal again if what it raised is lost, which shows in that nothing handles it any more."""
        missed = 0
        while missed < 2:
            time.sleep(_WATCHED)
            if self.answered or self.by is None:
                return
            missed = 0 if _is_handled(self.by) else missed + 1
        self.by = None
        _raise_in_main(number)

    def _is_to_wait(self, frame: FrameType | None) -> bool:
        while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
            frame = frame.f_back
        if frame is None:
            return False
        now = time.monotonic()
        self._importing_since = self._importing_since or now
        return now - self._importing_since < _PATIENCE

    def _leave_at_once(self, first: Interrupted) -> None:
        if self._asked_again:
            say(f"{self._program}: left at once; the next run removes what this one left unfinished")
            os._exit(first.exit_code)
        self._asked_again = True
        say(f"{self._program}: stopping; once more leaves at once")


@contextmanager
def stopped_by_signals(program: str) -> Iterator[Stopping]:
    """Raise Interrupted where a signal stops a command; a command within a command shares what answers them.

    Parameters
    ----------
    program : str
        Begins what is said.
    """
    around = signal.getsignal(signal.SIGINT)
    if isinstance(around, Stopping):
        yield around
        return
    stopping, unraisable = Stopping(program), sys.unraisablehook

    def raise_again(dropped: Any) -> None:
        if isinstance(dropped.exc_value, Interrupted):
            stopping.by = None
            stopping.send_again(dropped.exc_value.exit_code - 128)
        else:
            unraisable(dropped)

    previous = {number: signal.signal(number, stopping) for number in stopping_signals()}
    sys.unraisablehook = raise_again
    try:
        yield stopping
    finally:
        stopping.answered = True
        sys.unraisablehook = unraisable
        for number, handler in previous.items():
            signal.signal(number, handler)


def _is_handled(error: BaseException) -> bool:
    """Return whether the main thread is in a block that an exception made it enter."""
    found: Any = sys._current_exceptions().get(_main_thread())
    if isinstance(found, tuple):  # Python 3.11
        found = found[1]
    while found is not None and found is not error:
        found = found.__cause__ or found.__context__
    return found is error


def _raise_in_main(number: int) -> None:
    if hasattr(signal, "pthread_kill"):  # which ends a wait of the main thread
        signal.pthread_kill(_main_thread(), number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _main_thread() -> int:
    return threading.main_thread().ident or 0
