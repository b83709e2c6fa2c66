"""Work beside the viewer: one thread, which reports to a queue that the panel reads, and stops when it is asked to.

::

    panel, in the viewer's thread          thread
    Job.start()                       ->   work(job)
    Job.reports()                     <-   job.report(...)      progress, results
    Job.cancel()                      ->   job.step(...)        raises Cancelled at the next tile
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from isbi_infer.errors import IsbiError
from isbi_infer.terminal import one_line


class Cancelled(BaseException):
    """The user cancelled; no `Exception`, so that nothing on the way takes it for a fault."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a thread has to say.

    Attributes
    ----------
    kind : {"progress", "note", "result", "failed", "cancelled", "done"}
        The last three end a job; each job ends with one of them.
    text : str
        For people, in one line.
    value : object
        Of a result; of progress, what is done and the total.
    """

    kind: str
    text: str = ""
    value: Any = None


ENDS = ("failed", "cancelled", "done")


class Job:
    """Work in a thread of its own.

    Parameters
    ----------
    work : callable
        Is handed the job. What it raises ends it with one line.
    name : str
        Of the thread.
    """

    def __init__(self, work: Callable[[Job], None], name: str = "isbi-infer") -> None:
        self._work = work
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._asked: queue.LifoQueue[int] = queue.LifoQueue()
        self._cancelled = threading.Event()
        self._guard = threading.Lock()
        self._calls: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def cancel(self) -> None:
        """Ask it to stop; it does so at the next tile, and keeps nothing that is not whole."""
        self._cancelled.set()
        self.ask(-1)
        with self._guard:
            calls = tuple(self._calls)
        for call in calls:
            call()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the end; return whether it came."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._thread.is_alive()

    def reports(self) -> Iterator[Report]:
        """Return what was reported since the last call."""
        while True:
            try:
                yield self._reports.get_nowait()
            except queue.Empty:
                return

    def ask(self, number: int) -> None:
        """Ask for one more section, see `asked`; from any thread."""
        self._asked.put(number)

    # For the work

    def report(self, kind: str, text: str = "", value: Any = None) -> None:
        """Tell the viewer's thread."""
        self._reports.put(Report(kind, text, value))

    def step(self, done: int, total: int) -> None:
        """Report progress; raise Cancelled where the user has cancelled."""
        self.check()
        self.report("progress", value=(done, total))

    def check(self) -> None:
        """Raise Cancelled where the user has cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    @contextmanager
    def calling_when_cancelled(self, call: Callable[[], None]) -> Iterator[None]:
        """Have something called when the user cancels, by which whatever runs in the block ends early."""
        with self._guard:
            self._calls.append(call)
        try:
            if self._cancelled.is_set():
                call()
            yield
        finally:
            with self._guard:
                self._calls.remove(call)

    def asked(self) -> Iterator[int]:
        """Wait for sections that are asked for, the last one first, until the user cancels."""
        while True:
            number = self._asked.get()
            self.check()
            yield number

    def _run(self) -> None:
        try:
            self._work(self)
        except Cancelled:
            self.report("cancelled", "cancelled; nothing was kept that is not whole")
        except IsbiError as error:
            self.report("failed", str(error))
        except MemoryError:
            self.report("failed", "not enough memory; choose a part of the stack")
        except Exception as error:
            self.report("failed", f"something unforeseen went wrong ({one_line(error)})")
        else:
            self.report("done")
