"""The error tree: what can go wrong for a user, each with the exit code the command line leaves with.

::

    IsbiError                       1
      UsageError                    2   an invalid argument
      DependencyError               3   a package or a device that is not there
      ImageError                    4   an image that cannot be read, or is not a greyscale stack
      ModelError                    5   a model or checkpoint that cannot be trusted
      OutputError                   6   a result that cannot be written
      ResourceError                 7   too little memory
      BusyError                     8   another run holds the output

    KeyboardInterrupt
      Interrupted             130/143   a command line stopped by Ctrl-C or by SIGTERM; 129 by SIGHUP

A message is one line: the file, what was found, what was expected, and what to do.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


class IsbiError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1


class UsageError(IsbiError):
    """An invalid argument."""

    exit_code = 2


class DependencyError(IsbiError):
    """A package or a device that was asked for and is not there."""

    exit_code = 3


class ImageError(IsbiError):
    """An image that cannot be read whole, or is not a greyscale section or stack."""

    exit_code = 4


class ModelError(IsbiError):
    """A model or checkpoint that is damaged, foreign or differs from what it claims."""

    exit_code = 5


class OutputError(IsbiError):
    """A result that cannot be written; what existed before is untouched."""

    exit_code = 6


class ResourceError(IsbiError):
    """Too little memory, even for the smallest tile."""

    exit_code = 7


class BusyError(IsbiError):
    """Another run holds the output."""

    exit_code = 8


class Interrupted(KeyboardInterrupt):
    """A command line was stopped from outside; no `Exception`, so that nothing on the way takes it for a fault.

    Parameters
    ----------
    signal_number : int
        The signal, ``signal.SIGINT`` or ``signal.SIGTERM``.
    """

    def __init__(self, signal_number: int) -> None:
        by = "Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name
        super().__init__(f"stopped by {by}")
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        """Return how it was stopped, and what of the work is kept: the notes that were added on the way out."""
        kept = getattr(self, "__notes__", None) or ["nothing half-written was left behind"]
        return "; ".join((super().__str__(), *kept))


def say_on_the_way_out(error: BaseException, what: str, log: logging.Logger) -> None:
    """Say what is kept of work that an error ends: as part of the one message of who stopped it, else as a note.

    Parameters
    ----------
    error : BaseException
        What ends the work.
    what : str
        One line, such as how to go on.
    log : Logger
        Where notes go.
    """
    if isinstance(error, KeyboardInterrupt):
        error.add_note(what)
    else:
        log.warning("%s", what)
