"""How far work is: one line on standard error, drawn again and again on a terminal, every few seconds in a log.

The line holds what fits into the width, the most important first::

    tile 37/120  ━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━  3.25 Mpx/s  26 s left
    tile 37/120  3.25 Mpx/s  26 s left

On a terminal it stands from the beginning, with the seconds that have gone by where nothing can be counted yet, and is
wiped away in the end. A log gets nothing of work that is over soon, and fewer lines the longer it takes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from isbi_infer.terminal.words import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

Progress = Callable[[int, int], None]
"""Called with how many are done, and their total; what it raises ends the work."""

SOON_S = 2.0
"""Work that takes longer says how far it is."""

_PER_LINE, _LONGEST_S = 10, 60.0  # a log's next line comes after a tenth of the time so far, or a minute
_NEWS_S = 0.2  # what costs time to know is asked for that often
_NARROWEST_BAR, _WIDEST_BAR = 8, 40
_GAP = "  "


class Display:
    """Takes note of how far work is; this one shows nothing."""

    def __call__(self, done: int, total: int, *facts: str) -> None:
        """Take note that `done` of `total` are finished (0 where the total is not known), and of more to show."""

    def stage(self, noun: str, *, already: int = 0, together: float = 0) -> None:
        """Begin another stage.

        Parameters
        ----------
        noun : str
            What is done and counted from now on.
        already : int
            How many of it are done from the start.
        together : float
            What all of it comes to, in the unit of the speed; as before where it is 0.
        """

    def due(self) -> bool:
        """Return whether it is time to say more, where to know more costs time."""
        return False

    def next(self, noun: str) -> Progress:
        """Return what counts the next stage, which begins when it is first called."""
        begun = False

        def count(done: int, total: int) -> None:
            nonlocal begun
            if not begun:
                self.stage(noun)
            begun = True
            self(done, total)

        return count


@contextmanager
def show_progress(
    noun: str,
    *,
    quiet: bool,
    amount: float = 1,
    together: float = 0,
    unit: str = "",
    scale: float = 1,
    every_stage: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Display]:
    """Show on standard error how far the work inside is.

    Parameters
    ----------
    noun : str
        What is counted, in the singular: "tile"; or what is done, where nothing is.
    quiet : bool
        Show nothing.
    amount, together : float
        What one of them comes to, or all of them, in `unit`, whichever is known.
    unit : str
        Of the speed, a second; none is shown where it is empty.
    scale : float
        How many of what is counted are shown as one, such as 1e6 of bytes shown as MB.
    every_stage : bool
        Whether a log gets a line for every stage, not for what is counted alone.
    clock : callable
        Returns seconds.

    Yields
    ------
    Display
        To be called with how many are done, and their total.
    """
    if quiet:
        yield Display()
        return
    line = _Line(noun, amount, together, unit, scale, clock)
    if not is_live(sys.stderr):
        yield _Log(line, every_stage)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Live(
        console=console,
        get_renderable=lambda: line,
        transient=True,
        refresh_per_second=8,
        redirect_stdout=sys.stdout.isatty(),
    ):
        yield _Shown(line)


def is_live(stream: object) -> bool:
    """Return whether a stream is a terminal on which a line can be drawn again."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and os.environ.get("TERM", "") not in ("dumb", "unknown")


def duration(seconds: float) -> str:
    """Return a time in the two largest units that say something: "42 s", "3 min 20 s", "1 h 23 min"."""
    whole = int(seconds + 0.5)
    if whole < 100:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 3600:
        return f"{round(whole / 60)} min"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{round(minutes / 1440)} days"


class _Line:
    """What is known of the work, in words."""

    def __init__(
        self,
        noun: str,
        amount: float,
        together: float,
        unit: str,
        scale: float,
        clock: Callable[[], float],
    ) -> None:
        self._amount, self._together, self._unit, self._scale = amount, together, unit, scale
        self.clock = clock
        self.started = clock()
        self.begin(noun, 0, together)

    def begin(self, noun: str, already: int, together: float) -> None:
        """Begin a stage."""
        self._together = together or self._together
        self._noun, self._facts, self._already = printable(noun), tuple[str, ...](), already
        self._began = self._moved = self.clock()
        self.counts = already, 0

    def move(self, done: int, total: int, facts: Sequence[str]) -> None:
        """Count."""
        self._moved = self.clock()
        self.counts, self._facts = (done, total), tuple(facts)

    def parts(self) -> tuple[str, str, list[str], str]:
        """Return count, speed, facts, and the time left or gone by; empty where not known."""
        done, total = self.counts  # once, for they may be changed while they are drawn
        passed, fresh = self._moved - self._began, done - self._already
        speed, time_left = "", f"{duration(self.clock() - self._began)}"
        if fresh > 0 and passed > 0:
            one = self._together / total if self._together and total else self._amount / self._scale
            speed = f"{fresh / passed * one:.2f} {self._unit}/s" if self._unit else ""
            if total:
                still = passed * (total - done) / fresh - (self.clock() - self._moved)
                time_left = f"{duration(max(0, still))} left"
        return self._count(done, total), speed, list(self._facts), time_left

    def _count(self, done: int, total: int) -> str:
        if done == self._already and not total:
            return self._noun
        of = f"/{total / self._scale:.0f}" if total else ""
        return f"{self._noun} {done / self._scale:.0f}{of}"

    def words(self, width: int | None = None) -> list[str]:
        """Return what fits into a width: the count first of all, then the time left, facts, and the speed."""
        count, speed, facts, left = self.parts()
        if width is not None and len(count) > width:
            count = f"...{count[len(count) - width + 3 :]}"  # of a long name the end, where the numbers are
        chosen = {0: count}
        ranks = [(len(facts) + 2, left), *enumerate(facts, 1), (len(facts) + 1, speed)]
        for place, text in ranks:
            length = sum(map(len, chosen.values())) + len(_GAP) * len(chosen) + len(text)
            if text and (width is None or length <= width):
                chosen[place] = text
        return [chosen[place] for place in sorted(chosen)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the line, with a bar where there is room for one."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        # A terminal writes ^C behind the line, and must not go on to the next for it.
        width = options.max_width - 3
        first, *rest = (Text(word, no_wrap=True, overflow="ellipsis", end="") for word in self.words(width))
        room = width - sum(len(word) + len(_GAP) for word in (first, *rest))
        line: list[Text | ProgressBar] = [first]
        done, total = self.counts
        if total and room >= _NARROWEST_BAR:
            line.append(ProgressBar(total, done, width=min(room, _WIDEST_BAR)))
        grid = Table.grid(padding=(0, len(_GAP), 0, 0))
        grid.add_row(*line, *rest)
        yield grid


class _Shown(Display):
    """A line on a terminal."""

    def __init__(self, line: _Line) -> None:
        self._line, self._told = line, line.started - _NEWS_S

    def __call__(self, done: int, total: int, *facts: str) -> None:
        self._told = self._line.clock()
        self._line.move(done, total, facts)

    def due(self) -> bool:
        return self._line.clock() - self._told >= _NEWS_S

    def stage(self, noun: str, *, already: int = 0, together: float = 0) -> None:
        self._line.begin(noun, already, together)


class _Log(Display):
    """A line every few seconds."""

    def __init__(self, line: _Line, every_stage: bool) -> None:
        self._line, self._every_stage = line, every_stage
        self._said = line.started

    def __call__(self, done: int, total: int, *facts: str) -> None:
        self._line.move(done, total, facts)
        if self.due():
            self._said = self._line.clock()
            self._write(", ".join(self._line.words()))

    def due(self) -> bool:
        now = self._line.clock()
        return now - self._said >= min(_LONGEST_S, max(SOON_S, (now - self._line.started) / _PER_LINE))

    def stage(self, noun: str, *, already: int = 0, together: float = 0) -> None:
        self._line.begin(noun, already, together)
        if self._every_stage:
            self._write(noun)

    def _write(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
