r"""Labels of a volume into OME-Zarr: sections and blocks by themselves, here or on a cluster, with ids of the whole.

::

    result, section by section  ->  segments, on disk  ->  links of each with the one below  ->  ids by size
                                       \-> blocks of labels  <-------- table of ids ------------/

Each arrow is work in numbered pieces, in any order; what joins them is in the order of sections. So the ids are those
of the stack in one piece, however it is cut. A piece holds one or two sections, or a block of labels.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import OutputError
from isbi_infer.files import check_writable, make_folder
from isbi_infer.neurons.labelling import (
    Labelling,
    LabelSummary,
    ids_by_size,
    label_dtype,
    probability_of_cell,
    require_label_packages,
)
from isbi_infer.neurons.linking import Links, linker
from isbi_infer.neurons.measurements import Measurements, joined, measure_section, write_table
from isbi_infer.neurons.segments import Labels, segment_section
from isbi_infer.plan.blocks import Layout
from isbi_infer.run.cluster import connected
from isbi_infer.volumes.opening import open_source
from isbi_infer.volumes.protocol import Sink, StackInfo
from isbi_infer.volumes.spread import Spread, in_turn
from isbi_infer.volumes.zarr.unfinished import Unfinished
from isbi_infer.volumes.zarr.writer import OmeZarrSink

_CHUNK = (32, 128, 128)  # neighbours in all directions are looked at together
_SHARD = 1024  # px


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The pieces of work, as they are sent to workers.

    Attributes
    ----------
    result : str
        Of the probabilities; under the same name wherever a piece is done.
    folder : Path
        Of segments and ids, likewise.
    shape : (int, int, int)
        (Z, Y, X), in pixels.
    labelling : Labelling
        How.
    membrane : bool
        Whether 1 means membrane in the result.
    """

    result: str
    folder: Path
    shape: tuple[int, int, int]
    labelling: Labelling
    membrane: bool

    def segment(self, z: int) -> Measurements:
        """Cut a section into segments, and keep them."""
        how = self.labelling
        labels_YX = segment_section(self._probability(z), how.threshold, min_pixels=how.min_pixels)
        _keep(self.folder / f"{z}.npy", labels_YX)
        return measure_section(labels_YX, z)

    def link(self, z: int) -> Links:
        """Look at the segments of a section and of the one below."""
        below_YX = self._segments(z - 1) if z else None
        look = linker(self.labelling.link, self.labelling.threshold).links
        return look(self._segments(z), self._probability(z), below_YX)

    def store(self, sink: OmeZarrSink, layout: Layout, index: int) -> None:
        """Store a block of labels."""
        block = layout.at(index)
        ids, first = np.load(self.folder / "ids.npy", mmap_mode="r"), np.load(self.folder / "first.npy")
        values_ZYX = np.empty(block.shape, np.uint32)
        for z in range(*block.z):
            table = np.concatenate([[0], ids[first[z] : first[z + 1]]]).astype(np.uint32)
            segments_YX = np.load(self.folder / f"{z}.npy", mmap_mode="r")
            values_ZYX[z - block.z[0]] = table[segments_YX[slice(*block.y), slice(*block.x)]]
        with sink:
            sink.write(block, values_ZYX)

    def _probability(self, z: int) -> npt.NDArray[np.float32]:
        with open_source(self.result) as source:
            return probability_of_cell(source.read(z), membrane=self.membrane)

    def _segments(self, z: int) -> Labels:
        labels_YX: Labels = np.load(self.folder / f"{z}.npy")
        return labels_YX


class VolumeLabels:
    """Makes labels of a finished result, and writes them as OME-Zarr.

    Parameters
    ----------
    path : path
        Of the labels; the table stands beside it, as .csv.
    result : path
        Of the probabilities.
    like : StackInfo
        Of the input.
    labelling : Labelling
        How.
    membrane : bool
        Whether 1 means membrane in the result.
    attributes : dict
        Put beside OME's own.
    cluster : str
        Where it is done, see `isbi_infer.run.cluster.connected`; empty for this process.
    overwrite : bool
        Whether labels that are there are replaced.

    Raises
    ------
    DependencyError
        If the ``labels`` or the ``volume`` extra is not installed.
    UsageError
        If there is something of this name, or the result lies in it.
    OutputError
        If the files cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        result: str | Path,
        like: StackInfo,
        labelling: Labelling,
        *,
        membrane: bool = False,
        attributes: dict[str, Any] | None = None,
        cluster: str = "",
        overwrite: bool = False,
    ) -> None:
        require_label_packages(labelling.link)
        self._path, self._result, self._like, self._how = Path(path), Path(result), like, labelling
        self._membrane, self._attributes, self._cluster = membrane, attributes or {}, cluster
        self._shape = (like.sections, like.shape[-2], like.shape[-1])
        self._work = Unfinished(path)
        # Of labels that were cut off nothing is kept: they take little beside the probabilities.
        self._overwrite = overwrite or self._work.begun
        self._work.check(str(result), resume=False, overwrite=self._overwrite)
        self._table = self._path.with_name(f"{self._path.stem.removesuffix('.ome')}.csv")
        check_writable(self._table)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """What is handed the sections of a result while it is made: nothing, for they are read when it is finished."""
        return ()

    def complete(self, result: str | Path) -> bool:
        """Return whether there is a whole result to label."""
        return Path(result).exists()

    def summarise(self) -> LabelSummary:
        """Make labels and table.

        Returns
        -------
        LabelSummary

        Raises
        ------
        ResourceError
            If there are more ids than labels can hold.
        OutputError
            If they cannot be written; nothing half-written is left.
        """
        work = self._work
        with ExitStack() as opened:
            spread: Spread = in_turn
            if self._cluster:
                spread = opened.enter_context(connected(self._cluster)).spread
            opened.enter_context(work.held((1, 1), overwrite=self._overwrite))
            try:
                found = self._make(spread)
            except BaseException:
                work.discard()
                raise
            work.complete(overwrite=self._overwrite, whole=self._is_whole)
        return found

    def _make(self, spread: Spread) -> LabelSummary:
        how, like, shape = self._how, self._like, self._shape
        folder = self._work.folder / "segments"
        make_folder(folder)
        pieces = _Pieces(str(self._result.absolute()), folder, shape, how, self._membrane)
        by_section = dict(spread(pieces.segment, shape[0]))
        parts = [by_section[z] for z in range(shape[0])]
        links = dict(spread(pieces.link, shape[0])) if how.link != "none" else {}
        linked = linker(how.link, how.threshold)
        for z, part in enumerate(parts):
            linked.take(links.get(z, Links(len(part.pixels))))
        ids, count = ids_by_size(linked.components(), np.concatenate([part.pixels for part in parts]))
        label_dtype(count, str(self._path))  # which says so where they do not fit
        _keep(folder / "ids.npy", ids)
        _keep(folder / "first.npy", np.cumsum([0, *(len(part.pixels) for part in parts)]))
        self._store(spread, pieces)
        write_table(self._table, joined(parts, ids, count), shape[0], like.pixel_size)
        notes = how.notes
        if not count:
            notes += (f"{self._path}: no cell in any section, so all labels are 0",)
        return LabelSummary(
            output=str(self._path),
            table=str(self._table),
            segments=len(ids),
            ids=count,
            dtype="uint32",
            threshold=how.threshold,
            link=how.link,
            notes=notes,
        )

    def _store(self, spread: Spread, pieces: _Pieces) -> None:
        layout = label_layout(pieces.shape)
        sink = self._sink(self._work.volume, layout)
        with sink:  # made once, before workers open it
            pass
        for _ in spread(partial(pieces.store, sink, layout), layout.count):
            pass
        with sink:
            sink.finish()

    def _sink(self, folder: Path, layout: Layout, *, existing: bool = False) -> OmeZarrSink:
        return OmeZarrSink(
            folder,
            shape=layout.shape,
            dtype=np.uint32,
            shard=layout.shard,
            chunk=layout.chunk,
            like=self._like,
            name="ids of cells",
            attributes=self._attributes,
            existing=existing,
            labels=True,
        )

    def _is_whole(self, folder: Path) -> bool:
        layout = label_layout(self._shape)
        with self._sink(folder, layout, existing=True) as sink:
            return all(sink.done(block) for block in layout.blocks())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def label_layout(shape: tuple[int, int, int]) -> Layout:
    """Return how labels of (Z, Y, X) pixels are cut: a block is a shard of chunks that extend in all directions."""
    depth, height, width = (min(side, size) for side, size in zip(_CHUNK, shape, strict=True))
    down, across = (
        min(_SHARD // c * c, ceil(size / c) * c) for c, size in zip((height, width), shape[1:], strict=True)
    )
    shard = (depth, down, across)
    return Layout(shape=shape, block=shard, shard=shard, chunk=(depth, height, width))


def _keep(path: Path, array: npt.NDArray[Any]) -> None:
    """Store an array, whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(aside, "wb") as file:
            np.save(file, array)
        os.replace(aside, path)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: no room for segments ({error.strerror}); free some space"
        ) from error
