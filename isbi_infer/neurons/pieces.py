"""The numbered pieces of work that make labels of a volume, each kept by the storage once it is done.

A piece holds one or two sections, or a block of labels. What a piece finds lies in a file that is there whole or not at
all, so that labels that are cut off go on with what is there, and give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, OutputError
from isbi_infer.neurons.labelling import Labelling, probability_of_cell
from isbi_infer.neurons.linking import Link, Links, linker
from isbi_infer.neurons.measurements import Measurements, measure_section
from isbi_infer.neurons.segments import Labels, segment_section
from isbi_infer.plan.blocks import Layout
from isbi_infer.volumes.opening import open_source
from isbi_infer.volumes.zarr.writer import OmeZarrSink

_BYTES = {"none": 32, "overlap": 32, "multicut": 52}  # of a pixel, at the peak of a section of 4096 x 4096
_BESIDE, _PROCESS = 2**26, 2**28  # bytes beside a section, and of a process as a whole
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, BadZipFile)
_gates: dict[tuple[Path, int], threading.BoundedSemaphore] = {}


def memory_of_section(shape_YX: tuple[int, ...], link: Link, *, process: bool) -> int:
    """Return the bytes that it takes to cut a section into segments, and to link them.

    Parameters
    ----------
    shape_YX : (int, int)
        In pixels.
    link : {"none", "overlap", "multicut"}
        How.
    process : bool
        Whether those of the process that does so count, too.
    """
    return _BYTES[link] * shape_YX[0] * shape_YX[1] + (_PROCESS if process else _BESIDE)


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of work, as they are sent to workers.

    Attributes
    ----------
    result : str
        Of the probabilities; under the same name wherever a piece is done.
    folder : Path
        Of what is kept, likewise.
    shape : (int, int, int)
        (Z, Y, X), in pixels.
    labelling : Labelling
        How.
    membrane : bool
        Whether 1 means membrane in the result.
    at_once : int
        Sections that a process may hold at a time, for the sake of its memory.
    """

    result: str
    folder: Path
    shape: tuple[int, int, int]
    labelling: Labelling
    membrane: bool
    at_once: int = 1

    @property
    def done(self) -> int:
        """How many sections are cut into segments."""
        return sum((self.folder / f"{z}.npy").is_file() for z in range(self.shape[0]))

    def segment(self, z: int) -> Measurements:
        """Cut a section into segments, and keep them."""
        with self._gate():
            labels_YX = self._segments(z)
            if labels_YX is None:
                how = self.labelling
                labels_YX = segment_section(self._probability(z), how.threshold, min_pixels=how.min_pixels)
                made = labels_YX
                keep(self.folder / f"{z}.npy", lambda file: np.save(file, made))
            return measure_section(labels_YX, z)

    def link(self, z: int) -> Links:
        """Look at the segments of a section and of the one below, and keep what links them."""
        kept = self.folder / f"{z}.links.npz"
        with self._gate():
            try:
                with np.load(kept) as stored:
                    return Links(int(stored["count"]), *(stored[name] for name in _arrays_of(Links)))
            except _UNREADABLE:
                look = linker(self.labelling.link, self.labelling.threshold).links
                below_YX = self._needed(z - 1) if z else None
                links = look(self._needed(z), self._probability(z), below_YX)
            arrays = {name: getattr(links, name) for name in _arrays_of(Links)}
            keep(kept, lambda file: np.savez(file, count=links.count, **arrays))
            return links

    def store(self, sink: OmeZarrSink, layout: Layout, index: int) -> None:
        """Store a block of labels; one that is there already is left as it is."""
        block = layout.at(index)
        with sink:
            if sink.done(block):
                return
            ids, first = (
                np.load(self.folder / "ids.npy", mmap_mode="r"),
                np.load(self.folder / "first.npy"),
            )
            values_ZYX = np.empty(block.shape, np.uint32)
            for z in range(*block.z):
                table = np.concatenate([[0], ids[first[z] : first[z + 1]]]).astype(np.uint32)
                segments_YX = np.load(self.folder / f"{z}.npy", mmap_mode="r")
                values_ZYX[z - block.z[0]] = table[segments_YX[slice(*block.y), slice(*block.x)]]
            sink.write(block, values_ZYX)

    def _gate(self) -> threading.BoundedSemaphore:
        """Return what lets so many threads of this process through."""
        return _gates.setdefault((self.folder, self.at_once), threading.BoundedSemaphore(self.at_once))

    def _probability(self, z: int) -> npt.NDArray[np.float32]:
        with open_source(self.result) as source:
            return probability_of_cell(source.read(z), membrane=self.membrane)

    def _segments(self, z: int) -> Labels | None:
        """Return the segments of a section that are kept, None where there are none."""
        try:
            labels_YX: Labels = np.load(self.folder / f"{z}.npy")
        except _UNREADABLE:
            return None
        return labels_YX if labels_YX.shape == self.shape[1:] and labels_YX.dtype == np.uint32 else None

    def _needed(self, z: int) -> Labels:
        labels_YX = self._segments(z)
        if labels_YX is None:
            raise OutputError(
                f"{self.folder}: the segments of section {z} went missing; run it again with --resume"
            )
        return labels_YX


def digest_of(path: Path) -> bytes:
    """Return the sha256 of a file, or of all files in a folder and their names; ImageError if one cannot be read."""
    digest = hashlib.sha256()
    try:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file():
                with open(file, "rb") as opened:
                    content = hashlib.file_digest(opened, "sha256").digest()
                digest.update(os.fsencode(file.relative_to(path)) + b"\0" + content)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.digest()


def digest_of_part(folder: Path, number: int) -> bytes:
    """Return the digest of a numbered folder, such as those of shards of the same sections."""
    return digest_of(folder / str(number))


def keep(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Store a file, whole and on the disk, or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        try:
            with open(aside, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except OSError as error:
        why = error.strerror or "not all of it was written"  # numpy's own has no number
        raise OutputError(f"{path.parent}: no room for segments ({why}); free some space") from error


def _arrays_of(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.name != "count")
