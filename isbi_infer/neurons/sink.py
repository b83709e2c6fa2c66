"""Labels of cells, written beside a result: each section is segmented as it comes, and joined to the one before.

::

    probability  ->  segments of the section  ->  pairs with the section before  ->  kept on disk
    all sections ->  cells, the largest first ->  labels, and a table of measurements
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.neurons.links import mutual_best_overlap
from isbi_infer.neurons.segments import Segmentation
from isbi_infer.neurons.table import Measurements, write_table
from isbi_infer.pixels.probability import decode
from isbi_infer.terminal import counted
from isbi_infer.volumes.protocol import Block, StackInfo
from isbi_infer.volumes.tiff.writer import TiffSink

Link = Literal["none", "overlap"]
_MOST = 2**32 - 1
_SHORT = 2**16 - 1


class LabelSink:
    """Makes labels of cells out of a result; a `isbi_infer.volumes.protocol.Sink` of whole sections in order.

    Parameters
    ----------
    path : path
        A TIFF file, uint16 where the labels fit and uint32 otherwise; the table goes beside it, as CSV.
    like : StackInfo
        Of the input.
    threshold : float
        Probability above which a pixel is cell.
    link : {"none", "overlap"}
        Whether segments of neighbouring sections are joined into cells, by `mutual_best_overlap`.
    smallest : int
        Segments of fewer pixels in a section are left out.
    membrane : bool
        Whether 1 means membrane in the result.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        like: StackInfo,
        threshold: float = 0.5,
        link: Link = "none",
        smallest: int = 0,
        membrane: bool = False,
    ) -> None:
        if not 0 <= threshold < 1:
            raise UsageError(f"threshold {threshold:g} is not within 0 to 1")
        if smallest < 0:
            raise UsageError(f"the smallest segment is of {smallest} pixels; expected 0 or more")
        self._path, self._like, self._membrane = Path(path), like, membrane
        check_writable(self._path)
        self._link: Link = link
        self._segment = Segmentation(threshold, smallest)
        self._said = f"threshold {threshold:g}, link {link}, smallest {smallest} px"
        self._measured = Measurements()
        self._pairs: list[npt.NDArray[np.int64]] = []
        self._before: tuple[npt.NDArray[np.int32], int] | None = None
        self._segments = 0
        self._starts: list[int] = []
        self._held = ExitStack()

    @property
    def table(self) -> Path:
        """Where the measurements go."""
        return self._path.with_suffix(".csv")

    def __enter__(self) -> Self:
        self._spool = self._held.enter_context(tempfile.TemporaryFile(dir=self._path.parent))
        return self

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        """Segment the sections of a block, the next ones in order."""
        for z, section_YX in zip(range(*block.z), values_ZYX, strict=True):
            probability_YX = decode(section_YX)
            if self._membrane:
                probability_YX = np.float32(1) - probability_YX
            labels_YX, count = self._segment(probability_YX)
            if self._segments + count > _MOST:
                raise ImageError(
                    f"{self._path}: more than {_MOST} segments by section {z}; leave small ones out with --smallest"
                )
            if self._link == "overlap" and self._before is not None:
                before_YX, start = self._before
                pairs = mutual_best_overlap(before_YX, labels_YX)
                self._pairs.append(pairs + np.array([start, self._segments]))
            self._before = labels_YX, self._segments
            self._measured.add(z, labels_YX, count)
            self._starts.append(self._segments)
            self._segments += count
            self._spool.write(labels_YX.tobytes())

    def finish(self) -> tuple[str, ...]:
        """Write labels and table; return notes for the user."""
        pairs = np.concatenate([np.empty((0, 2), np.int64), *self._pairs])
        cell_of, cells = _cells(self._segments, pairs, self._measured.pixels)
        dtype = np.dtype(np.uint16 if cells <= _SHORT else np.uint32)
        ids = cell_of.astype(dtype)
        height, width = self._like.shape[-2:]
        self._spool.seek(0)
        provenance = f"labels of cells, 0 = none; {self._said}"
        with TiffSink(self._path, like=self._like, dtype=dtype, provenance=provenance) as sink:
            for z, start in enumerate(self._starts):
                held = np.frombuffer(self._spool.read(4 * height * width), np.int32).reshape(height, width)
                labels_YX = np.where(held > 0, ids[np.where(held > 0, held + start, 0)], 0).astype(dtype)
                sink.write(Block(z, (z, z + 1), (0, height), (0, width)), labels_YX[None])
            sink.finish()
        with replacing(self.table) as temporary:
            write_table(temporary, self._measured.joined(cell_of, cells), self._like.pixel_size)
        if not cells:
            return (f"{self._path}: no cell was found in any section",)
        return (f"{self._path}: {counted(cells, 'cell')}, {self._said}; measurements in {self.table.name}",)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()


def _cells(
    segments: int, pairs: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the cell of each segment, the largest cell being 1, and how many there are.

    Each segment has at most one partner before it and one behind it, so cells are chains; of cells of one size the one
    that begins first comes first.
    """
    first = np.arange(segments + 1)
    for before, after in pairs:  # of section after section, so the one before knows its first
        first[after] = first[before]
    firsts, of = np.unique(first[1:], return_inverse=True)
    sizes = np.bincount(of, pixels[1:], len(firsts)) if segments else np.zeros(0)
    order = np.lexsort((firsts, -sizes))
    rank = np.empty(len(firsts), np.int64)
    rank[order] = np.arange(1, len(firsts) + 1)
    return np.concatenate([[0], rank[of]]).astype(np.int64), len(firsts)
