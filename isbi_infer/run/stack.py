"""A run into a TIFF stack, section after section; on request one that can be gone on with when it was killed.

::

    result.tif.partial/      while a run that can be gone on with lasts
      plan.json              what is computed; a run that continues must want the same
      sections               finished sections, each followed by its checksum

A TIFF file cannot be completed where it stands, since its result takes the place of an earlier one in one step. So a
run with `--resume` keeps its sections aside, and writes the file out of them in the end: the bytes are those of any
run.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.backends.base import Backend
from isbi_infer.errors import OutputError, say_on_the_way_out
from isbi_infer.files import beside, folder_in_use, reserved, sync_folder, write_once
from isbi_infer.plan.run import RunPlan, Wishes, parse_plan
from isbi_infer.run.findings import Findings
from isbi_infer.run.pipeline import look_at, run_plan
from isbi_infer.run.volume import Outcome, check_same
from isbi_infer.terminal import counted
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes import TiffSink
from isbi_infer.volumes.protocol import Block, Sink, Source

log = logging.getLogger(__name__)

_PARTIAL = ".partial"
_CHECKSUM = 4  # bytes


def segment_stack(
    plan: RunPlan,
    source: Source,
    backend: Backend,
    output: str | Path,
    *,
    wishes: Wishes,
    resume: bool = False,
    also: Sequence[Sink] = (),
    progress: Progress | None = None,
    findings: Findings | None = None,
) -> Outcome:
    """Carry out a plan into a TIFF file.

    Parameters
    ----------
    plan : RunPlan
        Without a layout.
    source : Source
        The sections.
    backend : Backend
        The model on the plan's device.
    output : path
        In place only when it is whole.
    wishes : Wishes
        What the user asks for, so that what the machine decided differently does not hinder a resume.
    resume : bool
        Whether finished sections are kept beside the output until all are there, and those of an earlier run are taken.
    also : sequence of Sink
        Handed the same sections, in order.
    progress, findings
        As in `run_plan`.

    Returns
    -------
    Outcome

    Raises
    ------
    UsageError
        If an earlier run differs from this one; the differences are listed.
    BusyError
        If another run makes this output.
    OutputError
        If it cannot be written.
    """
    open_sink = partial(
        TiffSink,
        output,
        like=replace(source.info, pixel_size=plan.source.pixel_size),
        dtype=plan.dtype,
        provenance=plan.provenance,
        title=f"probability of {plan.emit}",
    )
    replaced = (f"{output} was there already, and was replaced",) if os.path.lexists(output) else ()
    if not resume:
        with open_sink() as sink:
            found = run_plan(plan, source, backend, (sink, *also), progress, findings=findings)
            return Outcome((*found, *sink.finish(), *replaced), prod(source.info.shape))
    with _kept(output, plan, wishes) as (plan, kept):
        total, before = source.info.sections, kept.count
        blocks = list(plan.blocks())
        findings = Findings(plan) if findings is None else findings
        look_at(plan, source, blocks[:before], findings)
        notes = (f"{before} of {counted(total, 'section')} were there already",) if before else ()
        try:
            with reserved(output):
                found = run_plan(
                    plan, source, backend, (kept,), progress, blocks=blocks[before:], findings=findings
                )
        except BaseException as error:
            if kept.count:
                said = f"{output}: {kept.count} of {counted(total, 'section')} are done and kept"
                say_on_the_way_out(error, f"{said}; to go on, run it again with --resume", log)
            raise
        with open_sink() as sink:
            for block, section_YX in zip(blocks, kept, strict=True):
                for each in (sink, *also):
                    each.write(block, section_YX[None])
            notes += (*found, *sink.finish(), *replaced)
    return Outcome(notes, sum(prod(block.shape) for block in blocks[before:]))


@contextmanager
def _kept(output: str | Path, plan: RunPlan, wishes: Wishes) -> Iterator[tuple[RunPlan, KeptSections]]:
    """Hold the folder of a run that can be gone on with; it is removed when the run ends well."""
    target = Path(os.path.realpath(output))
    folder = beside(target, _PARTIAL)
    with folder_in_use(folder):
        stored = parse_plan(
            write_once(folder / "plan.json", plan.to_json().encode()).decode(), folder / "plan.json"
        )
        other = (
            f"{output}: was begun by another run, so run it as before or remove {folder.name}; what differs"
        )
        check_same(stored, plan, wishes, other)
        with KeptSections(folder / "sections", stored.source.shape, np.dtype(stored.dtype)) as kept:
            try:
                yield stored.continued(plan, wishes), kept
            except BaseException:
                if not kept.count:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    shutil.rmtree(folder, ignore_errors=True)


class KeptSections:
    """Finished sections on the disk, in order; a `isbi_infer.volumes.protocol.Sink` of whole sections.

    Iterating it reads them back. What a run that was killed left of its last section is cut off.

    Parameters
    ----------
    path : Path
        The file.
    shape : (int, int)
        (Y, X) of a section.
    dtype : numpy.dtype
        Of its pixels.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._path, self._shape, self._dtype = path, shape, dtype
        self._bytes = shape[0] * shape[1] * dtype.itemsize
        self.count = 0

    def __enter__(self) -> Self:
        try:
            self._path.touch()
            self._file: BinaryIO = self._path.open("r+b")
            while self._next() is not None:
                self.count += 1
            self._file.truncate(self.count * (self._bytes + _CHECKSUM))
            self._file.seek(0, os.SEEK_END)
            sync_folder(self._path.parent)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be opened ({error.strerror})") from error
        return self

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        self._file.seek(0)
        for number in range(self.count):
            content = self._next()
            if content is None:
                raise OutputError(
                    f"{self._path}: section {number} is damaged; remove the folder and start again"
                )
            yield np.frombuffer(content, self._dtype).reshape(self._shape)

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        """Store the next sections, and wait until they are on the disk."""
        if block.z[0] != self.count:
            raise ValueError(f"section {block.z[0]} comes after {self.count} sections")
        try:
            for section_YX in values_ZYX:
                content = np.ascontiguousarray(section_YX, self._dtype).tobytes()
                self._file.write(content + zlib.crc32(content).to_bytes(_CHECKSUM, "little"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be written ({error.strerror}); free some space, and go on with --resume"
            ) from error
        self.count += len(values_ZYX)

    def finish(self) -> tuple[str, ...]:
        """Return no notes."""
        return ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what a full disk did not take counts for nothing
            self._file.close()

    def _next(self) -> bytes | None:
        """Read the next section; None where it is not there, whole."""
        record = self._file.read(self._bytes + _CHECKSUM)
        content, checksum = record[: self._bytes], record[self._bytes :]
        whole = len(checksum) == _CHECKSUM and zlib.crc32(content) == int.from_bytes(checksum, "little")
        return content if whole else None
