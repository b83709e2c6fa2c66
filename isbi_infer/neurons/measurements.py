"""Measurements of segments: gathered section by section, joined by id, and written as a table."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isbi_infer.files import replacing
from isbi_infer.neurons.linking import Nodes
from isbi_infer.neurons.segments import Labels
from isbi_infer.pixels.windows import bands
from isbi_infer.volumes import is_chunked_output
from isbi_infer.volumes.pixel_size import PixelSize

COLUMNS = (
    *("id", "sections", "first_section", "last_section", "pixels", "mean_area_um2", "volume_um3"),
    *("z", "y", "x", "touches_edge", "touches_end"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """What is known of the segments of a section, or of ids; each array has one value for each.

    Attributes
    ----------
    pixels : int64 array
        Their number.
    sum_z, sum_y, sum_x : float64 arrays
        Sums of the pixels' positions, from 0.
    sections, first, last : int64 arrays
        How many sections hold some, and the numbers of the first and the last.
    edge : bool array
        Whether some lie on a section's outermost rows or columns.
    """

    pixels: Nodes
    sum_z: npt.NDArray[np.float64]
    sum_y: npt.NDArray[np.float64]
    sum_x: npt.NDArray[np.float64]
    sections: Nodes
    first: Nodes
    last: Nodes
    edge: npt.NDArray[np.bool_]


def measure_section(labels_YX: Labels, z: int) -> Measurements:
    """Measure the segments of section `z`, numbered from 1 without gaps; index 0 is label 1."""
    count = int(labels_YX.max(initial=0)) + 1
    width = labels_YX.shape[1]
    pixels, sum_y, sum_x = np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
    for rows in bands(0, len(labels_YX), width):  # positions take more memory than labels do
        flat = labels_YX[rows].ravel()
        y, x = np.divmod(np.arange(flat.size), width)
        pixels += np.bincount(flat, minlength=count)
        sum_y += np.bincount(flat, y + rows.start, minlength=count)
        sum_x += np.bincount(flat, x, minlength=count)
    pixels, sum_y, sum_x = pixels[1:], sum_y[1:], sum_x[1:]
    edge = np.zeros(count, np.bool_)
    for side in (labels_YX[0], labels_YX[-1], labels_YX[:, 0], labels_YX[:, -1]):
        edge[side] = True
    at = np.full(count - 1, z, np.int64)
    return Measurements(pixels, pixels * np.float64(z), sum_y, sum_x, np.ones_like(at), at, at, edge[1:])


def joined(parts: list[Measurements], ids: Nodes, count: int) -> Measurements:
    """Join the segments of all sections into ids.

    Parameters
    ----------
    parts : list of Measurements
        One of each section, in order.
    ids : int64 array
        The id from 1 of each segment, in the order of `parts`.
    count : int
        Number of ids.

    Returns
    -------
    Measurements
        Index 0 is id 1.
    """
    where = ids - 1
    at = np.concatenate([np.empty(0, np.int64), *(part.first for part in parts)])

    def total(name: str) -> npt.NDArray[np.float64]:
        values = np.concatenate([np.empty(0), *(getattr(part, name) for part in parts)])
        return np.bincount(where, values, minlength=count).astype(np.float64)

    first, last = np.full(count, np.iinfo(np.int64).max), np.full(count, -1, np.int64)
    np.minimum.at(first, where, at)
    np.maximum.at(last, where, at)
    # Of several segments of one section, which a multicut may join, the section counts once.
    _, once = np.unique(np.stack([where, at]), axis=1, return_index=True)
    return Measurements(
        total("pixels").astype(np.int64),
        total("sum_z"),
        total("sum_y"),
        total("sum_x"),
        np.bincount(where[once], minlength=count),
        first,
        last,
        total("edge") > 0,
    )


def table_of(labels: Path) -> Path:
    """Return where the table of labels goes: beside them, as ``neurons.csv`` of ``neurons.tif``."""
    stem = labels.stem.removesuffix(".ome") if is_chunked_output(labels) else labels.stem
    return labels.with_name(f"{stem}.csv")


def write_table(
    path: str | os.PathLike[str], found: Measurements, sections: int, pixel_size: PixelSize | None
) -> None:
    """Write a table, see `write_rows`, which is put in place when it is whole; OutputError if it cannot be written."""
    with replacing(path) as temporary:
        write_rows(temporary, found, sections, pixel_size)


def write_rows(path: Path, found: Measurements, sections: int, pixel_size: PixelSize | None) -> None:
    """Write one row for each id, as CSV with the columns `COLUMNS`, and wait until they are on the disk.

    Parameters
    ----------
    path : Path
        Of the file.
    found : Measurements
        Of the ids.
    sections : int
        Of the stack.
    pixel_size : PixelSize or None
        Areas stay empty where it is not known, and volumes where the distance of sections is not.
    """
    area = pixel_size.y_nm * pixel_size.x_nm / 1e6 if pixel_size else None
    volume = area * pixel_size.z_nm / 1e3 if area and pixel_size and pixel_size.z_nm else None
    with open(path, "w", encoding="ascii", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for i, pixels in enumerate(found.pixels.tolist()):
            count, first, last = int(found.sections[i]), int(found.first[i]), int(found.last[i])
            centre = (f"{total[i] / pixels:.2f}" for total in (found.sum_z, found.sum_y, found.sum_x))
            sizes = (
                "" if area is None else f"{pixels * area / count:.6g}",
                "" if volume is None else f"{pixels * volume:.6g}",
            )
            ends = first == 0 or last == sections - 1
            table.writerow(
                (i + 1, count, first, last, pixels, *sizes, *centre, int(found.edge[i]), int(ends))
            )
        file.flush()
        os.fsync(file.fileno())
