r"""From probabilities, section by section, to a stack of labels and a table of measurements.

::

    probability_YX -> segments -> spool on disk ---------------------> labels.tif
                         |   \-> linker (two sections) -> ids by size -^
                         \-----> measurements of segments ------------> labels.csv

Memory holds two sections and some numbers of each segment; the spool takes 4 bytes a pixel beside the labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, OutputError, ResourceError, UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.neurons.linking import Link, Nodes, linker
from isbi_infer.neurons.measurements import Measurements, joined, measure_section, table_of, write_rows
from isbi_infer.neurons.segments import segment_section
from isbi_infer.pixels.probability import decode
from isbi_infer.terminal import counted, require_packages
from isbi_infer.volumes.opening import open_source
from isbi_infer.volumes.protocol import Block, Sink, StackInfo
from isbi_infer.volumes.tiff.writer import TiffSink

MOST = 2**32 - 1  # ids that a TIFF of labels can hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """How segments are made.

    Attributes
    ----------
    threshold : float
        A pixel is cell where its probability is above it; within 0 and 1.
    link : {"none", "overlap", "multicut"}
        See `isbi_infer.neurons.linking`.
    min_pixels : float
        Segments of a section with fewer pixels are left out.
    notes : tuple of str
        What the reader of the labels must know.
    """

    threshold: float = 0.5
    link: Link = "none"
    min_pixels: float = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: float | None, of_model: float | None, link: Link, min_pixels: float) -> Labelling:
        """Take the threshold that is asked for, or the model's, or one half where it knows none."""
        notes: tuple[str, ...] = ()
        if asked is None and of_model is None:
            notes = (
                "the model does not say above which probability a pixel is cell, so the labels are made at 0.5; "
                "choose another with --threshold",
            )
        threshold = asked if asked is not None else 0.5 if of_model is None else of_model
        return cls(threshold=threshold, link=link, min_pixels=min_pixels, notes=notes)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UsageError(f"threshold {self.threshold:g} is not from 0 to below 1; try 0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSummary:
    """What was written.

    Attributes
    ----------
    output, table : str
        The files.
    segments, ids : int
        In all sections, and what they became.
    dtype : str
        Of the labels.
    threshold : float
        Above it a pixel is cell.
    link : str
        How they were joined.
    notes : tuple of str
        What the reader must know.
    """

    output: str
    table: str
    segments: int
    ids: int
    dtype: str
    threshold: float
    link: str
    notes: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return plain types, for JSON."""
        return asdict(self) | {"notes": list(self.notes)}

    def __str__(self) -> str:
        joined = "" if self.link == "none" else f", joined to {counted(self.ids, 'id')} by {self.link}"
        return f"{counted(self.segments, 'cell')} in the sections{joined} -> {self.output}, {self.table}"


def ids_by_size(components: Nodes, pixels: Nodes) -> tuple[Nodes, int]:
    """Return the ids of components: their numbers by size.

    Parameters
    ----------
    components : int64 array
        The component of each segment, any numbers from 0.
    pixels : int64 array
        The size of each segment.

    Returns
    -------
    ids : int64 array
        The id of each segment: 1 for the largest component; of equals, the one that begins first comes first.
    count : int
    """
    _, first, of = np.unique(components, return_index=True, return_inverse=True)
    sizes = np.bincount(of, pixels, minlength=len(first))
    rank = np.empty(len(first), np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(1, len(first) + 1)
    return rank[of], len(first)


def label_dtype(count: int, name: str) -> np.dtype[Any]:
    """Return uint16 where `count` ids fit, since Fiji shows those at once, and uint32 elsewhere.

    Raises
    ------
    ResourceError
        If they fit in neither.
    """
    if count > MOST:
        raise ResourceError(
            f"{name}: {count} segments, but labels hold {MOST} at most; link them with --link overlap, leave small "
            "ones out with --min-size, or label parts of the stack"
        )
    return np.dtype(np.uint16 if count <= np.iinfo(np.uint16).max else np.uint32)


def label_array(
    probability_ZYX: npt.NDArray[np.float32],
    labelling: Labelling,
    *,
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[Any]:
    """Make labels of probabilities in memory: those that `LabelSink` writes.

    Parameters
    ----------
    probability_ZYX : ndarray of float32, shape (Z, Y, X)
        Probability of cell.
    labelling : Labelling
        How.
    progress : callable, optional
        Called with the sections done after each.

    Returns
    -------
    ndarray of uint16 or uint32, shape (Z, Y, X)
        Ids from 1 by size, 0 = membrane.

    Raises
    ------
    DependencyError
        If the ``labels`` extra is not installed.
    ResourceError
        If there are more ids than labels can hold.
    """
    require_label_packages(labelling.link)
    links = linker(labelling.link, labelling.threshold)
    segments_ZYX = np.empty(probability_ZYX.shape, np.uint32)
    pixels = [np.empty(0, np.int64)]
    for z, section_YX in enumerate(probability_ZYX):
        segments_ZYX[z] = segment_section(section_YX, labelling.threshold, min_pixels=labelling.min_pixels)
        links.add(segments_ZYX[z], section_YX)
        pixels.append(np.bincount(segments_ZYX[z].ravel())[1:])
        if progress:
            progress(z + 1)
    ids, count = ids_by_size(links.components(), np.concatenate(pixels))
    labels_ZYX = np.empty(segments_ZYX.shape, label_dtype(count, "labels"))
    done = 0
    for z, found in enumerate(pixels[1:]):
        table = np.concatenate([[0], ids[done : done + len(found)]]).astype(labels_ZYX.dtype)
        labels_ZYX[z] = table[segments_ZYX[z]]
        done += len(found)
    return labels_ZYX


def require_label_packages(link: Link) -> None:
    """Raise DependencyError unless the ``labels`` extra is installed, as far as a link needs it."""
    require_packages("labels", "numba", *(["bioimage_cpp"] if link == "multicut" else []))


def probability_of_cell(stored_YX: npt.NDArray[Any], *, membrane: bool) -> npt.NDArray[np.float32]:
    """Return the probability of cell that is stored in a result, in which 1 may mean membrane."""
    one = stored_YX.dtype.type(255 if stored_YX.dtype == np.uint8 else 1)
    return decode(one - stored_YX if membrane else stored_YX)


class LabelSink:
    """Takes a result's sections in order and makes labels of them; a `isbi_infer.volumes.protocol.Sink`.

    Parameters
    ----------
    path : path
        The TIFF of labels; the table stands beside it, as .csv. Both appear when `finish` is called, once both are
        whole.
    like : StackInfo
        Of the input.
    labelling : Labelling
        How.
    membrane : bool
        Whether 1 means membrane in what it is handed.
    provenance : str
        For the file's metadata.

    Raises
    ------
    DependencyError
        If the ``labels`` extra is not installed.
    OutputError
        If the files cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        like: StackInfo,
        labelling: Labelling,
        *,
        membrane: bool = False,
        provenance: str = "",
    ) -> None:
        require_label_packages(labelling.link)
        self._path, self._like, self._how = Path(path), like, labelling
        self._table = table_of(self._path)
        check_writable(self._path)
        check_writable(self._table)
        self._membrane, self._provenance = membrane, provenance
        self._linker = linker(labelling.link, labelling.threshold)
        self._parts: list[Measurements] = []
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        try:
            # Without a name, so that nothing of it is left by a run that is killed.
            self._spool = self._resources.enter_context(tempfile.TemporaryFile(dir=self._path.parent))
        except OSError as error:
            raise self._no_room(error) from error
        return self

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """What is handed the sections of a result while it is made."""
        return (self,)

    @property
    def sections(self) -> int:
        """How many sections were taken."""
        return len(self._parts)

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        """Segment whole sections, the next ones in order: probabilities, or round(255 p)."""
        if block.z[0] != self.sections or values_ZYX.shape[1:] != self._like.shape[-2:]:
            raise ValueError(f"sections {block.z} of shape {values_ZYX.shape} come after {self.sections}")
        for stored_YX in values_ZYX:
            self._add(probability_of_cell(stored_YX, membrane=self._membrane))

    def _add(self, probability_YX: npt.NDArray[np.float32]) -> None:
        how = self._how
        labels_YX = segment_section(probability_YX, how.threshold, min_pixels=how.min_pixels)
        self._linker.add(labels_YX, probability_YX)
        self._parts.append(measure_section(labels_YX, self.sections))
        try:
            self._spool.write(labels_YX.data)
            self._spool.flush()  # what is left in the buffer would fail where nobody expects it
        except OSError as error:
            raise self._no_room(error) from error

    def _no_room(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self._path}: no room for segments beside it ({error.strerror}); free some space, raise the file-size "
            "limit (ulimit -f), or choose another folder"
        )

    def complete(self, result: str | Path) -> bool:
        """Take the sections from a result that was there already; return whether all were taken.

        Parameters
        ----------
        result : path
            Of the probabilities; nothing is read where `write` was handed them, or where there is no such result yet,
            as after one share of several.
        """
        if not self.sections and Path(result).exists():
            with open_source(result) as source:
                for z in range(source.info.sections):
                    section_YX = source.read(z)
                    self.write(
                        Block(z, (z, z + 1), (0, len(section_YX)), (0, section_YX.shape[1])), section_YX[None]
                    )
        return self.sections == self._like.sections

    def finish(self) -> tuple[str, ...]:
        """Write labels and table; return notes."""
        return self.summarise().notes

    def summarise(self) -> LabelSummary:
        """Write labels and table, after all sections.

        Returns
        -------
        LabelSummary

        Raises
        ------
        ResourceError
            If there are more ids than labels can hold.
        OutputError
            If they cannot be written; nothing half-written is left, and labels and table that were there stay.
        BusyError
            If another run writes labels or table; likewise.
        """
        like = self._like
        if self.sections != like.sections:
            raise ImageError(
                f"{self._path}: {self.sections} of {like.sections} sections are there; label a whole result"
            )
        ids, count = ids_by_size(
            self._linker.components(), np.concatenate([part.pixels for part in self._parts])
        )
        dtype = label_dtype(count, str(self._path))
        # The table is held and written first, so that whatever fails leaves those of before, which belong together.
        with replacing(self._table) as table:
            write_rows(table, joined(self._parts, ids, count), like.sections, like.pixel_size)
            notes = (*self._how.notes, *self._write_labels(ids, count, dtype))
        if not count:
            notes += (
                f"{self._path}: no cell in any section: no pixel is above the threshold {self._how.threshold:g} "
                "(or no segment above the smallest size), so all labels are 0",
            )
        return LabelSummary(
            output=str(self._path),
            table=str(self._table),
            segments=len(ids),
            ids=count,
            dtype=dtype.name,
            threshold=self._how.threshold,
            link=self._how.link,
            notes=notes,
        )

    def _write_labels(self, ids: Nodes, count: int, dtype: np.dtype[Any]) -> tuple[str, ...]:
        height, width = self._like.shape[-2:]
        self._spool.seek(0)
        how = self._how
        text = f"ids of cells, 0 = membrane; threshold {how.threshold:g}, link {how.link}; {self._provenance}"
        done = 0
        with TiffSink(
            self._path,
            like=self._like,
            dtype=dtype,
            provenance=text,
            top=max(count, 1),
            title="ids of cells",
        ) as sink:
            for z, part in enumerate(self._parts):
                # An OSError of the spool is taken for one of the output, which it lies beside.
                stored = np.frombuffer(self._spool.read(height * width * 4), np.uint32).reshape(
                    1, height, width
                )
                table = np.concatenate([[0], ids[done : done + len(part.pixels)]]).astype(dtype)
                done += len(part.pixels)
                sink.write(Block(z, (z, z + 1), (0, height), (0, width)), table[stored])
            return sink.finish()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what a full disk did not take is not needed any more
            self._resources.close()
