"""A table of what was measured of each cell, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isbi_infer.volumes.pixel_size import PixelSize

_COLUMNS = (
    *("id", "first_section", "last_section", "pixels", "area_um2", "volume_um3"),
    *("z", "y", "x", "touches_edge"),
)
_UM = 1e-3  # micrometres in a nanometre


@dataclass(slots=True)
class Measurements:
    """Sums over the pixels of segments, numbered from 1 through the whole stack.

    Attributes
    ----------
    pixels, z, y, x : ndarray of float64 and int64, shape (segments + 1,)
        How many pixels, and the sums of their coordinates.
    first, last : ndarray of int64
        Sections.
    touches : ndarray of bool
        Whether a segment touches the edge of its section.
    """

    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    z: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    y: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    x: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    first: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    last: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    touches: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1, np.bool_))

    def add(self, section: int, labels_YX: npt.NDArray[np.int32], count: int) -> None:
        """Append the segments 1 to `count` of a section."""
        flat = labels_YX.ravel()
        pixels = np.bincount(flat, minlength=count + 1)
        rows, columns = np.arange(labels_YX.shape[0]), np.arange(labels_YX.shape[1])
        weights = {
            "y": np.broadcast_to(rows[:, None], labels_YX.shape).ravel(),
            "x": np.broadcast_to(columns, labels_YX.shape).ravel(),
        }
        edge = np.zeros(count + 1, np.bool_)
        for side in (labels_YX[0], labels_YX[-1], labels_YX[:, 0], labels_YX[:, -1]):
            edge[side] = True
        self.pixels = np.append(self.pixels, pixels[1:])
        self.z = np.append(self.z, section * pixels[1:].astype(np.float64))
        for name, values in weights.items():
            sums = np.bincount(flat, values, minlength=count + 1)[1:]
            setattr(self, name, np.append(getattr(self, name), sums))
        self.first = np.append(self.first, np.full(count, section))
        self.last = np.append(self.last, np.full(count, section))
        self.touches = np.append(self.touches, edge[1:])

    def joined(self, cell_of: npt.NDArray[np.int64], cells: int) -> Measurements:
        """Return the sums over cells: `cell_of` holds the cell, from 1, of each segment; 0 of segment 0."""
        found = Measurements()
        found.pixels = np.bincount(cell_of, self.pixels, cells + 1).astype(np.int64)
        for name in ("z", "y", "x"):
            setattr(found, name, np.bincount(cell_of, getattr(self, name), cells + 1))
        found.first = np.full(cells + 1, np.iinfo(np.int64).max)
        np.minimum.at(found.first, cell_of, self.first)
        found.last = np.zeros(cells + 1, np.int64)
        np.maximum.at(found.last, cell_of, self.last)
        found.touches = np.bincount(cell_of, self.touches, cells + 1) > 0
        return found


def write_table(path: Path, found: Measurements, size: PixelSize | None) -> None:
    """Write measurements of cells.

    Parameters
    ----------
    path : Path
        The temporary file that `isbi_infer.files.replacing` yields.
    found : Measurements
        Of cells, see `Measurements.joined`.
    size : PixelSize or None
        For areas and volumes; these columns are empty where it is not known.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(_rows(found, size))


def _rows(found: Measurements, size: PixelSize | None) -> Iterator[list[object]]:
    for cell in range(1, len(found.pixels)):
        pixels = int(found.pixels[cell])
        area = None if size is None else pixels * size.y_nm * size.x_nm * _UM**2
        volume = None if area is None or size is None or size.z_nm is None else area * size.z_nm * _UM
        yield [
            cell,
            int(found.first[cell]),
            int(found.last[cell]),
            pixels,
            "" if area is None else f"{area:.6g}",
            "" if volume is None else f"{volume:.6g}",
            *(f"{float(sums[cell]) / pixels:.3f}" for sums in (found.z, found.y, found.x)),
            int(found.touches[cell]),
        ]
