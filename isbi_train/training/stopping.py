"""Ctrl-C and SIGTERM held back until a step is finished, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from isbi_infer.errors import Interrupted


class Stop:
    """Takes note of a signal that asks to stop.

    Attributes
    ----------
    signal_number : int or None
        The first such signal; None while nobody has asked.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def leave(self, kept: str) -> None:
        """Raise Interrupted for the signal that came, for SIGTERM where only another process got one."""
        stopped = Interrupted(self.signal_number or signal.SIGTERM)
        stopped.add_note(kept)
        raise stopped


@contextmanager
def stop_between_steps() -> Iterator[Stop]:
    """Hold back the first Ctrl-C or SIGTERM; a second one acts at once.

    Python handles signals in the main thread only; elsewhere nothing is held back.

    Yields
    ------
    Stop
        True once a signal has come: finish the step, save, and `Stop.leave`.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def take_note(signal_number: int, _frame: FrameType | None) -> None:
        stop.signal_number = signal_number
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, take_note)
    try:
        yield stop
    finally:
        restore()
