"""A plan carried out: sections in, results out, in three stages that overlap.

::

    reader thread                    workers (one or more threads)     caller
    read, resample, statistics  ->   gather + normalise, compute,  ->  one section at a time, in order
                                     crop

Only a bounded number of sections is open at any time, so memory depends on tile and batch and never on the length of
the stack. Leaving the iteration, also by an exception or Ctrl-C, stops the other threads and no others.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from math import ceil, prod

import numpy as np

from isbi_infer.backends.base import Backend
from isbi_infer.errors import ImageError, ModelError, ResourceError
from isbi_infer.pixels.probability import encode
from isbi_infer.pixels.statistics import SectionError
from isbi_infer.plan.deciding import backend_of
from isbi_infer.plan.neighbours import Stacked, around
from isbi_infer.plan.run import RunPlan
from isbi_infer.plan.tiles import Tile
from isbi_infer.run.counting import TileCount
from isbi_infer.run.findings import Findings
from isbi_infer.run.section import Buffers, Item, Measured, Result, Section, SectionInWork, measure
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes.protocol import Block, Sink, Source

log = logging.getLogger(__name__)


def run_plan(
    plan: RunPlan,
    source: Source,
    backend: Backend,
    sinks: Sequence[Sink],
    progress: Progress | None = None,
    *,
    blocks: Sequence[Block] | None = None,
    measured: Callable[[int], Measured] | None = None,
    findings: Findings | None = None,
) -> tuple[str, ...]:
    """Carry out a plan from a source into sinks, block by block.

    Parameters
    ----------
    plan : RunPlan
        Made for this source and this backend.
    source : Source
        The sections.
    backend : Backend
        The model on the plan's device.
    sinks : sequence of Sink
        Each is handed every block, encoded by the plan; they are not finished here.
    progress : callable, optional
        Called with the tiles done and their total, in the caller's thread; what it raises ends the run at once.
    blocks : sequence of Block, optional
        Those of the plan that are to be computed; all when not given.
    measured : callable, optional
        Returns what was measured of a whole section, by its number; needed where blocks hold parts of sections.
    findings : Findings, optional
        Where to collect what is found in the sections.

    Returns
    -------
    tuple of str
        What was found in the sections that the reader of the results must know.

    Raises
    ------
    ImageError
        If a section cannot be read.
    OutputError
        If a block cannot be stored.
    ResourceError
        If there is not enough memory for the smallest tile.
    """
    wanted = list(plan.blocks()) if blocks is None else blocks
    count = TileCount(plan, wanted, progress) if progress else None
    findings = Findings(plan) if findings is None else findings
    results = _computed(plan, _parts(plan, source, wanted, measured, findings), backend, findings, count)
    try:
        for block in wanted:
            values_ZYX = np.empty(block.shape, plan.dtype) if block.shape[0] > 1 else None
            for z in range(*block.z):
                part_YX = encode(next(results), plan.emit, plan.dtype)
                if values_ZYX is not None:
                    values_ZYX[z - block.z[0]] = part_YX
                if count and z < block.z[1] - 1:
                    count.section_done()
            for sink in sinks:
                sink.write(block, part_YX[None] if values_ZYX is None else values_ZYX)
            if count:
                count.section_done()
    finally:
        results.close()
    return (*findings.notes(), *source.found())


def look_at(plan: RunPlan, source: Source, blocks: Sequence[Block], findings: Findings) -> None:
    """Find in whole sections, computed by an earlier run, what that run found in them.

    Parameters
    ----------
    plan : RunPlan
        Made for this source.
    source : Source
        The sections.
    blocks : sequence of Block
        Of the plan, whole sections each.
    findings : Findings
        Where to collect it.

    Raises
    ------
    ImageError
        If a section cannot be read.
    """
    for z, section in _parts(plan, source, blocks, None, findings):
        _note(findings, z, section)


def _note(findings: Findings, z: int, section: SectionInWork) -> None:
    findings.add(z, section.statistics)
    if findings.looks_at(z):
        findings.add_texture(z, section.texture())


def _parts(
    plan: RunPlan,
    source: Source,
    blocks: Sequence[Block],
    measured: Callable[[int], Measured] | None,
    findings: Findings,
) -> Iterator[tuple[int, SectionInWork]]:
    """Open the sections of blocks one after the other, whole or as far as the block goes."""
    height, width = plan.source.shape
    neighbours, sections = plan.model.neighbours, source.info.sections
    stack = Stacked(lambda z: _measured(z, source.read(z), plan), neighbours)
    for block in blocks:
        window = slice(*block.y), slice(*block.x)
        tiles = 0
        for z in range(*block.z):
            if window == (slice(0, height), slice(0, width)):
                seen = stack.around(z, sections)
                assert seen is not None
                section = SectionInWork(seen, plan)
                del seen
            else:
                assert measured is not None
                near = around(z, sections, neighbours)
                windows = [(measured(other), partial(source.read, other)) for other in near]
                section = SectionInWork.of_window(windows, plan, window)
            tiles += section.tiles
            yield z, section
            del section  # it may be done with before the next one is read
        if plan.layout is not None:
            findings.add_block(empty=not tiles)


def compute_sections(
    plan: RunPlan,
    sections: Iterable[Section],
    backend: Backend,
    findings: Findings | None = None,
    progress: Progress | None = None,
) -> Generator[Result, None, None]:
    """Compute sections of one shape lazily; tiles of neighbouring sections share batches.

    Parameters
    ----------
    plan : RunPlan
        Decides tiles, batch, workers and views.
    sections : iterable of ndarray, shape (Y, X)
        Grey values, all finite. Iterated in a thread of its own, a bounded number of sections ahead.
    backend : Backend
        The model on the plan's device.
    findings : Findings, optional
        Told of canvas, blank sections, outliers and texture.
    progress : callable, optional
        As in `run_plan`; the plan then knows the number of sections.

    Returns
    -------
    generator of ndarray of float32 or uint8, shape (Y, X)
        One result per section, in order, as the model returns it.

    Raises
    ------
    ImageError
        If a section is not of the plan's shape.
    ResourceError
        If there is not enough memory for the smallest tile.
    """
    opened = (_measured(z, section_YX, plan) for z, section_YX in enumerate(sections))
    stack = Stacked.of(opened, plan.model.neighbours)
    works = ((z, SectionInWork(seen, plan)) for z, seen in enumerate(stack))
    count = TileCount(plan, list(plan.blocks()), progress) if progress else None
    yield from _told(_computed(plan, works, backend, findings or Findings(plan), count), count)


def compute_blocks(
    plan: RunPlan,
    source: Source,
    blocks: Sequence[Block],
    backend: Backend,
    findings: Findings,
    progress: Progress | None = None,
) -> Generator[Result, None, None]:
    """Compute sections of a source lazily, each among its neighbours there; see `compute_sections`.

    Parameters
    ----------
    plan, source, backend, findings, progress
        As in `run_plan`.
    blocks : sequence of Block
        Of the plan, whole sections each, in order.

    Returns
    -------
    generator of ndarray of float32 or uint8, shape (Y, X)
        One for each block, as the model returns it.
    """
    works = _parts(plan, source, blocks, None, findings)
    count = TileCount(plan, blocks, progress) if progress else None
    yield from _told(_computed(plan, works, backend, findings, count), count)


def _told(results: Generator[Result, None, None], count: TileCount | None) -> Generator[Result, None, None]:
    """Hand results on, and tell of each that it is there."""
    with closing(results):
        for result_YX in results:
            if count:
                count.section_done()
            yield result_YX


def _computed(
    plan: RunPlan,
    works: Iterable[tuple[int, SectionInWork]],
    backend: Backend,
    findings: Findings,
    count: TileCount | None,
) -> Generator[Result, None, None]:
    run = _Run(plan, works, backend_of(plan, backend), findings)
    try:
        run.start()
        with backend.naming():
            while (due := run.next_section(count.sections_ahead if count else None)) is not None:
                yield _result(plan, *due)
    finally:
        run.stop()


def _result(plan: RunPlan, z: int, section: SectionInWork) -> Result:
    try:
        return section.result()
    except ModelError as error:
        raise ModelError(f"on section {z} of {plan.source.name}, {error}") from error


def _measured(z: int, section_YX: Section, plan: RunPlan) -> tuple[Measured, Section | None]:
    """Measure all of a section; ImageError unless it is what the plan was made for and its grey values are of use."""
    if section_YX.shape != plan.source.shape:
        raise ImageError(
            f"sections differ in shape: {plan.source.shape}, then {section_YX.shape}; split the stack"
        )
    if plan.model.input_dtype == "uint8" and section_YX.dtype != np.uint8:
        raise ImageError(
            f"the model takes 8-bit grey values as stored, these are {section_YX.dtype}; "
            "use its float32 variant"
        )
    try:
        return measure(section_YX, plan)
    except SectionError as error:
        raise error.of(plan.source.name, z) from error


class _Run:
    """The threads of one iteration and what they share."""

    def __init__(
        self,
        plan: RunPlan,
        sections: Iterable[tuple[int, SectionInWork]],
        backend: Backend,
        findings: Findings,
    ) -> None:
        self._plan, self._sections, self._backend = plan, sections, backend
        self._findings = findings
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
        """
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

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if any(thread.is_alive() for thread in self._threads):
            self._stop_calls.set()
        for thread in self._threads:
            # An iteration that nobody holds any more may be collected in one of its own threads.
            if thread.ident is not None and thread is not threading.current_thread():
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
                _note(self._findings, z, section)
                self._open(z, section)
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

    def _open(self, z: int, section: SectionInWork) -> None:
        """Enter a section, once few enough are open: those being computed, one ahead and one being taken."""
        ahead = ceil(self._plan.batch * (self._plan.workers + 1) / max(1, section.pending)) + 1
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._error or len(self._open_sections) < ahead)
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
            try:
                self._call(now, buffers)
            except (ResourceError, MemoryError):
                if count > 1:
                    self._back_off.halve_batch(count)
                    continue
                self._compute_in_parts(now[0], buffers)
            waiting = later

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
        """Compute what one tile owns in smaller tiles; ResourceError when there is no smaller one."""
        parts = item.view.plan.split(item.tile)
        if not parts:
            raise ResourceError(
                "not enough memory for the smallest tile, {} x {} pixels; ".format(*_shape(item.tile))
                + "free some memory, or use a smaller --batch"
            )
        self._back_off.shrink_tiles(_shape(item.tile), max(map(_shape, parts), key=prod))
        for part in parts:
            smaller = Item(item.section, item.view, part)
            try:
                self._call([smaller], buffers)
            except (ResourceError, MemoryError):
                self._compute_in_parts(smaller, buffers)


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
