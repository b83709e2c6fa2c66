"""The threads of a run: three stages that overlap.

::

    reader thread                    workers (one or more threads)     caller
    read, resample, statistics  ->   gather + normalise, compute,  ->  one section at a time, in order
                                     crop

Only a bounded number of sections is open at any time. `Stages.stop` ends these threads and no others, also after
an exception or Ctrl-C.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable
from math import ceil, prod
from weakref import WeakSet

from isbi_infer.backends.base import Backend
from isbi_infer.errors import ResourceError, UsageError
from isbi_infer.plan.run import RunPlan
from isbi_infer.plan.tiles import Tile
from isbi_infer.run.findings import Findings
from isbi_infer.run.section import Buffers, Item, SectionInWork

log = logging.getLogger(__name__)

_PATIENCE_S = 5.0  # at the end of the interpreter, for a section that is being read


class Stages:
    """The threads of one iteration and what they share.

    Parameters
    ----------
    plan : RunPlan
        Decides batch and workers.
    sections : iterable of (int, SectionInWork)
        Opened one after the other, in the reader's thread, a bounded number ahead.
    backend : Backend
        Computes the batches.
    findings : Findings
        Told of each section as it is opened.
    """

    def __init__(
        self,
        plan: RunPlan,
        sections: Iterable[tuple[int, SectionInWork]],
        backend: Backend,
        findings: Findings,
    ) -> None:
        self._plan, self._sections, self._backend = plan, sections, backend
        self._findings = findings
        self._process = os.getpid()
        self._stop_calls = backend.new_stop()
        self._work: queue.Queue[list[Item] | None] = queue.Queue(plan.workers)
        self._changed = threading.Condition()
        self._open_sections: list[tuple[int, SectionInWork]] = []
        self._read_all = False
        self._read_error: BaseException | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._back_off = _BackOff(plan.batch)
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._read,), name="reader", daemon=True)
        ]
        self._threads += [
            threading.Thread(target=self._guarded, args=(self._compute_all,), name=f"worker-{i}", daemon=True)
            for i in range(plan.workers)
        ]

    def start(self) -> None:
        """Begin to read and to compute."""
        _running.add(self)
        for thread in self._threads:
            thread.start()

    def next_section(
        self, watch: Callable[[list[float]], None] | None = None
    ) -> tuple[int, SectionInWork] | None:
        """Wait for the next section in order, and its number; None after the last one.

        Parameters
        ----------
        watch : callable, optional
            Called with the shares of the open sections, in order, that are computed, whenever they change.

        Raises
        ------
        UsageError
            In a process that was forked off since, where there are no threads to wait for.
        """
        if self._process != os.getpid():
            raise UsageError("a stream goes on only in the process that began it; begin another one")
        seen: list[float] = []
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._section_due() or (watch and self._shares() != seen))  # noqa: B023
                if self._section_due():
                    return self._take_section()
                seen = self._shares()
            assert watch is not None
            watch(seen)

    def _section_due(self) -> bool:
        if self._open_sections:
            return self._error is not None or not self._open_sections[0][1].pending
        return self._error is not None or self._read_all

    def _take_section(self) -> tuple[int, SectionInWork] | None:
        if self._open_sections and not self._open_sections[0][1].pending:
            due = self._open_sections.pop(0)
            self._changed.notify_all()
            return due
        if error := self._error or self._read_error:
            raise error
        return None

    def _shares(self) -> list[float]:
        return [1 - section.pending / max(1, section.tiles) for _, section in self._open_sections]

    def stop(self, patience_s: float | None = None) -> None:
        """End the threads, a call of the model in one of them too, and wait for them.

        Parameters
        ----------
        patience_s : float, optional
            Longest wait for the reader, in seconds, since what it reads from may be none of ours; as long as it takes
            when not given.
        """
        if self._process != os.getpid():
            return  # the threads are not here, and a lock may be held by one of them
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        threads, self._threads = self._threads, []
        if any(thread.is_alive() for thread in threads):
            self._stop_calls.set()
        for thread in threads:
            # An iteration that nobody holds any more may be collected in one of its own threads.
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(patience_s if thread.name == "reader" else None)
        _running.discard(self)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Stopped:
            pass
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    # The reader's thread

    def _read(self) -> None:
        try:
            self._read_sections()
        except _Stopped:
            return
        except BaseException as error:
            self._read_error = error  # raised after the sections that were read whole, with their neighbours
        for _ in range(self._plan.workers):
            self._put(None)
        with self._changed:
            self._read_all = True
            self._changed.notify_all()

    def _read_sections(self) -> None:
        plan, items = self._plan, list[Item]()
        try:
            for z, section in self._sections:
                self._findings.add(z, section.statistics, section.texture)
                # Those being computed, one ahead and one being taken.
                most = ceil(plan.batch * (plan.workers + 1) / max(1, section.pending)) + 1
                if items and self._opened_since(items[0].section) >= most:
                    # Room is made by taking a section that is not done without these.
                    self._put(items)
                    items = []
                self._open(z, section, most)
                for view in section.views:
                    for tile in view.tiles:
                        if items and items[0].view.plan.tile_shape != view.plan.tile_shape:
                            self._put(items)
                            items = []
                        items.append(Item(section, view, tile))
                        if len(items) >= plan.batch:
                            self._put(items)
                            items = []
        finally:
            if items:
                self._put(items)

    def _opened_since(self, first: SectionInWork) -> int:
        """Return how many sections are open from one on that is not done."""
        with self._changed:
            sections = [section for _, section in self._open_sections]
        return len(sections) - sections.index(first)

    def _open(self, z: int, section: SectionInWork, most: int) -> None:
        """Enter a section, once fewer than so many are open."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._error or len(self._open_sections) < most)
            if self._stopping or self._error:
                raise _Stopped
            self._open_sections.append((z, section))
            self._changed.notify_all()  # a blank section is done at once

    def _put(self, items: list[Item] | None) -> None:
        while True:
            try:
                self._work.put(items, timeout=0.1)
            except queue.Full:
                if self._stopping or self._error:
                    raise _Stopped from None
            else:
                return

    # The workers' threads

    def _compute_all(self) -> None:
        buffers = Buffers(self._plan)
        while not self._stopping:
            try:
                items = self._work.get(timeout=0.1)
            except queue.Empty:
                if self._error:
                    return
                continue
            if items is None:
                return
            self._compute(items, buffers)
            with self._changed:
                for item in items:
                    item.section.pending -= 1
                self._changed.notify_all()

    def _compute(self, items: list[Item], buffers: Buffers) -> None:
        """Compute a batch of the plan in as many calls as memory asks for."""
        waiting = items
        while waiting:
            count = min(self._back_off.batch, len(waiting))
            now, later = waiting[:count], waiting[count:]
            if not self._computed_at_once(now, buffers):
                if count > 1:
                    self._back_off.halve_batch(count)
                    continue
                self._compute_in_parts(now[0], buffers)
            waiting = later

    def _computed_at_once(self, items: list[Item], buffers: Buffers) -> bool:
        """Compute tiles in one call; return whether memory sufficed.

        An error is gone then, and with it what its traceback holds: buffers of the size that did not fit.
        """
        try:
            self._call(items, buffers)
        except (ResourceError, MemoryError):
            return False
        return True

    def _call(self, items: list[Item], buffers: Buffers) -> None:
        if (
            self._back_off.tile_pixels is not None
            and prod(_shape(items[0].tile)) > self._back_off.tile_pixels
        ):
            raise ResourceError("tiles of this size have failed before")
        count = max(self._back_off.batch, len(items)) if self._plan.fixed_batch else len(items)
        batch, out = buffers.gather(items, count)
        result_NCYX = self._backend.run(*batch, out=out, stop=self._stop_calls)
        for item, probability_CYX in zip(items, result_NCYX, strict=False):
            item.view.keep(item.tile, probability_CYX[0])

    def _compute_in_parts(self, item: Item, buffers: Buffers) -> None:
        """Compute what one tile owns in smaller tiles; ResourceError when there is no smaller one, or may be none."""
        if not self._plan.model.exact:
            raise ResourceError(
                "not enough memory for {} x {} pixels at once, and tiles would give another result; ".format(
                    *_shape(item.tile)
                )
                + "free some memory, or cut the sections"
            )
        parts = item.view.plan.split(item.tile)
        if not parts:
            raise ResourceError(
                "not enough memory for the smallest tile, {} x {} pixels; ".format(*_shape(item.tile))
                + "free some memory, or use a smaller --batch"
            )
        self._back_off.shrink_tiles(_shape(item.tile), max(map(_shape, parts), key=prod))
        for part in parts:
            smaller = Item(item.section, item.view, part)
            if not self._computed_at_once([smaller], buffers):
                self._compute_in_parts(smaller, buffers)


_running: WeakSet[Stages] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """Stop what runs when the interpreter ends: a thread that came back from a runtime after that would abort it."""
    for stages in list(_running):
        stages.stop(_PATIENCE_S)


def _shape(tile: Tile) -> tuple[int, int]:
    return tile.reads[0].stop - tile.reads[0].start, tile.reads[1].stop - tile.reads[1].start


class _BackOff:
    """How much smaller than planned the calls must be, for lack of memory: all workers learn it from one another.

    Attributes
    ----------
    batch : int
        Most tiles of a call.
    tile_pixels : int or None
        Largest area of a tile that has not failed; None while none has.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.tile_pixels: int | None = None
        self._lock = threading.Lock()

    def halve_batch(self, failed: int) -> None:
        with self._lock:
            if self.batch >= failed:
                self.batch = ceil(failed / 2)
                log.warning("not enough memory for a batch of %d tiles; going on with %d", failed, self.batch)

    def shrink_tiles(self, failed: tuple[int, int], smaller: tuple[int, int]) -> None:
        with self._lock:
            if self.tile_pixels is None or self.tile_pixels > prod(smaller):
                self.tile_pixels = prod(smaller)
                log.warning("not enough memory for tiles of %s; going on with %s", failed, smaller)


class _Stopped(Exception):  # noqa: N818  # ends a thread of ours, never seen outside
    pass
