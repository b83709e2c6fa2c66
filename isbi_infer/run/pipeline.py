"""Sections in, results out, in three stages that overlap.

::

    reader thread          lanes (one or more threads)             caller
    read, statistics  ->   gather + normalise, compute, crop  ->   one section at a time, in order

Only a bounded number of sections is open at any time, so memory depends on tile and batch and never on the length of
the stack. Leaving the iteration, also by an exception or Ctrl-C, stops the other threads.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from math import ceil, prod

import numpy as np

from isbi_infer.backends.base import Backend
from isbi_infer.errors import ImageError, ResourceError
from isbi_infer.plan.tiles import Plan, Tile
from isbi_infer.run.section import Buffers, Item, Job, Result, Section, Settings, View, overlap

log = logging.getLogger(__name__)


def run_sections(
    sections: Iterable[Section], backend: Backend, settings: Settings
) -> Generator[Result, None, None]:
    """Compute sections of one shape lazily; tiles of neighbouring sections share batches.

    Parameters
    ----------
    sections : iterable of ndarray, shape (Y, X)
        Grey values, all finite. Iterated in a thread of its own, a bounded number of sections ahead.
    backend : Backend
        What computes.
    settings : Settings
        Tiles, batch, lanes and symmetries.

    Yields
    ------
    ndarray of float32 or uint8, shape (Y, X)
        One result per section, in order.

    Raises
    ------
    ImageError
        If the sections differ in shape.
    ResourceError
        If there is not enough memory for the smallest tile.
    """
    run = _Run(sections, backend, settings)
    try:
        run.start()
        while (job := run.next_job()) is not None:
            yield job.result()
    finally:
        run.stop()


class _Run:
    """The threads of one iteration and what they share."""

    def __init__(self, sections: Iterable[Section], backend: Backend, settings: Settings) -> None:
        self._sections, self._backend, self._settings = sections, backend, settings
        self._stop = backend.new_stop()
        self._work: queue.Queue[list[Item] | None] = queue.Queue(settings.lanes)
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._read_all = False
        self._read_error: BaseException | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._halvings = 0
        self._batch = 1  # until the first section is there
        self._reduced = False  # the batch, for lack of memory
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._read,), name="reader", daemon=True)
        ]
        self._threads += [
            threading.Thread(target=self._guarded, args=(self._compute_all,), name=f"lane-{i}", daemon=True)
            for i in range(settings.lanes)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def next_job(self) -> Job | None:
        """Wait for the next section in order; None after the last one."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._error
                    or (self._jobs and not self._jobs[0].pending)
                    or (self._read_all and not self._jobs)
                )
            )
            if self._jobs and not self._jobs[0].pending:
                job = self._jobs.pop(0)
                self._changed.notify_all()
                return job
            if error := self._error or self._read_error:
                raise error
            return None

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if any(thread.is_alive() for thread in self._threads):
            self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

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
            self._read_error = error  # said after the sections before it
        for _ in range(self._settings.lanes):
            self._put(None)
        with self._changed:
            self._read_all = True
            self._changed.notify_all()

    def _read_sections(self) -> None:
        shape: tuple[int, ...] | None = None
        items: list[Item] = []
        try:
            for section_YX in self._sections:
                if shape not in (None, section_YX.shape):
                    raise ImageError(
                        f"sections differ in shape: {shape}, then {section_YX.shape}; split the stack"
                    )
                if not self._settings.normalised and section_YX.dtype != np.uint8:
                    raise ImageError(
                        f"the model takes 8-bit grey values as stored, these are {section_YX.dtype}; "
                        "use its float32 variant"
                    )
                shape = section_YX.shape
                job = Job(section_YX, self._settings, self._halvings)
                if not self._reduced:
                    self._batch = self._settings.batch(job.views[0].plan)
                self._open(job)
                for view in job.views:
                    for tile in view.plan.tiles:
                        if items and items[0].view.plan.tile_shape != view.plan.tile_shape:
                            self._put(items)
                            items = []
                        items.append(Item(job, view, tile))
                        if len(items) >= self._batch:
                            self._put(items)
                            items = []
        finally:
            if items:
                self._put(items)

    def _open(self, job: Job) -> None:
        """Enter a section, once few enough are open: those being computed, one ahead and one being taken."""
        ahead = ceil(self._batch * (self._settings.lanes + 1) / max(1, job.pending)) + 1
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._error or len(self._jobs) < ahead)
            if self._stopping or self._error:
                raise _Stopped
            self._jobs.append(job)

    def _put(self, items: list[Item] | None) -> None:
        while True:
            try:
                self._work.put(items, timeout=0.1)
            except queue.Full:
                if self._stopping or self._error:
                    raise _Stopped from None
            else:
                return

    # The lanes' threads

    def _compute_all(self) -> None:
        buffers = Buffers(self._settings)
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
                    item.job.pending -= 1
                self._changed.notify_all()

    def _compute(self, items: list[Item], buffers: Buffers) -> None:
        count = max(self._batch, len(items)) if self._settings.fixed_batch else len(items)
        try:
            batch, out = buffers.gather([(item.view, item.view.plan, item.tile) for item in items], count)
            result_NCYX = self._backend.run(*batch, out=out, stop=self._stop)
        except (ResourceError, MemoryError):
            if len(items) == 1:
                self._compute_in_parts(items[0].view, items[0].view.plan, items[0].tile, buffers)
                return
            self._batch, self._reduced = min(self._batch, ceil(len(items) / 2)), True
            log.warning(
                "not enough memory for a batch of %d tiles; going on with %d", len(items), self._batch
            )
            for part in (items[: self._batch], items[self._batch :]):
                self._compute(part, buffers)
            return
        for item, probability_CYX in zip(items, result_NCYX, strict=False):
            item.view.out_YX[item.tile.owns] = probability_CYX[0][item.tile.crop]

    def _compute_in_parts(self, view: View, plan: Plan, tile: Tile, buffers: Buffers) -> None:
        """Compute what one tile owns in smaller tiles; ResourceError when there is no smaller one."""
        smaller = self._smaller(plan)
        for part in smaller.tiles:
            if not overlap(part, tile):
                continue
            try:
                batch, out = buffers.gather([(view, smaller, part)], 1)
                part_NCYX = self._backend.run(*batch, out=out, stop=self._stop)
            except (ResourceError, MemoryError):
                self._compute_in_parts(view, smaller, part, buffers)
            else:
                view.out_YX[part.owns] = part_NCYX[0, 0][part.crop]

    def _smaller(self, plan: Plan) -> Plan:
        halvings = self._halvings
        smaller = self._settings.plan(plan.shape, halvings)
        while prod(smaller.tile_shape) >= prod(plan.tile_shape):
            halvings += 1
            smaller = self._settings.plan(plan.shape, halvings)
        if halvings > self._halvings:
            self._halvings = halvings
            log.warning(
                "not enough memory for tiles of %s; going on with %s", plan.tile_shape, smaller.tile_shape
            )
        return smaller


class _Stopped(Exception):  # noqa: N818  # ends a thread of ours, never seen outside
    pass
