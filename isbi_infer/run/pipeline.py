"""A plan carried out: sections in, results out.

A reader opens sections, workers compute them and the caller takes them in order, see `isbi_infer.run.stages`. Memory
depends on tile and batch and never on the length of the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial

import numpy as np

from isbi_infer.backends.base import Backend
from isbi_infer.errors import ImageError, ModelError
from isbi_infer.pixels.probability import encode
from isbi_infer.pixels.statistics import SectionError
from isbi_infer.plan.deciding import backend_of
from isbi_infer.plan.neighbours import Stacked, around
from isbi_infer.plan.run import RunPlan
from isbi_infer.run.counting import TileCount
from isbi_infer.run.findings import Findings
from isbi_infer.run.section import Measured, Result, Section, SectionInWork, measure
from isbi_infer.run.stages import Stages
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes.protocol import Block, Sink, Source


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
        findings.add(z, section.statistics, section.texture)


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
    run = Stages(plan, works, backend_of(plan, backend), findings)
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
