"""A section made ready for a network: cut to its tissue, its holes filled by mirror images; and the way back.

A network knows the edge of an image from its training, but not a step from tissue to canvas. So margins of canvas are
cut off, which leaves the result that the section would have without them, to the last bit. Canvas within the rectangle
that remains, as after a rotation, continues the tissue as its mirror image; so do hot pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.canvas import Section
from isbi_infer.pixels.normalise import IntensityStatistics, Statistics, intensity_statistics
from isbi_infer.pixels.offsets import less
from isbi_infer.pixels.statistics import SectionStatistics, section_statistics
from isbi_infer.pixels.windows import Grid, Mask, Window

_REACH = 32  # px; on sections with canvas 96 pixels gave the same scores, 8 px and a plain mean lower ones
_BLOCK = 1024  # px, side of what is filled at a time
_FAR = 2**30
Indices = npt.NDArray[np.intp]


def normalising(pixels: Grid, statistics: SectionStatistics) -> Statistics:
    """Return the mean and standard deviation by which a section's tissue is normalised.

    Parameters
    ----------
    pixels : ndarray or Windowed, integer or floating dtype
        The section, or from `tissue_of`.
    statistics : SectionStatistics
        Those of the section.

    Returns
    -------
    Statistics
        `statistics`, or the same without the rounding of a histogram, for floats of a section that is all tissue; of
        grey values as `tissue_of` returns them.
    """
    if statistics.offset:  # measured without that rounding already
        return IntensityStatistics(statistics.mean, statistics.std)
    integers = pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2  # counted one by one
    if integers or statistics.canvas_YX is not None or statistics.outliers:
        return statistics
    return intensity_statistics(pixels)


def normalising_section(section_YX: Section) -> Statistics:
    """Return the mean and standard deviation by which a whole section is normalised: those of its tissue."""
    found = section_statistics(section_YX)
    if found.offset:
        return found
    return normalising(section_YX, found)


def tissue_of(section_YX: Section, statistics: SectionStatistics) -> Section:
    """Cut a section to its tissue and fill what is none.

    Parameters
    ----------
    section_YX : ndarray, shape (Y, X), integer or floating dtype
        Grey values.
    statistics : SectionStatistics
        Those of this section; it must have tissue.

    Returns
    -------
    ndarray of the same dtype, or float64 where the statistics have an offset; shape of ``statistics.box``
        Less that offset, all finite and within the fences; a view of the section where there is nothing to fill.
    """
    box = statistics.box
    shape = box[0].stop - box[0].start, box[1].stop - box[1].start
    whole = slice(0, shape[0]), slice(0, shape[1])
    return tissue_window(lambda window: section_YX[window], statistics, whole)


def tissue_window(
    read: Callable[[Window], Section], statistics: SectionStatistics, window: Window
) -> Section:
    """Return a window of what `tissue_of` returns, to the same bits, from windows of the section.

    Parameters
    ----------
    read : callable
        Returns a window of the section.
    statistics : SectionStatistics
        Those of the section.
    window : (slice, slice)
        In the frame of ``statistics.box``.

    Returns
    -------
    ndarray
        Shape of the window.
    """
    box = statistics.box
    shape = box[0].stop - box[0].start, box[1].stop - box[1].start
    if statistics.canvas_YX is None and not statistics.outliers:
        return less(read(_shifted(window, box[0].start, box[1].start)), statistics.offset)
    margin = 4 * _REACH  # what two rounds of mirroring read
    # Whole blocks, and what they read: what is filled depends on these alone.
    rows, columns = (slice(part.start // _BLOCK * _BLOCK, part.stop) for part in window)
    top_0, left_0 = max(0, rows.start - margin), max(0, columns.start - margin)
    bottom, right = (
        min(size, -(-part.stop // _BLOCK) * _BLOCK + margin) for part, size in zip(window, shape, strict=True)
    )
    outside = slice(top_0, bottom), slice(left_0, right)
    in_section = _shifted(outside, box[0].start, box[1].start)
    cut_YX = less(read(in_section), statistics.offset)
    hole_YX = None if statistics.canvas_YX is None else statistics.canvas_YX[in_section]
    if statistics.outliers:
        beyond_YX = (cut_YX < statistics.low) | (cut_YX > statistics.high)
        hole_YX = beyond_YX if hole_YX is None else beyond_YX | hole_YX
    wanted = _shifted(window, -top_0, -left_0)
    if hole_YX is None or not hole_YX.any():
        return cut_YX[wanted]
    filled_YX = np.where(hole_YX, np.asarray(statistics.fill, cut_YX.dtype), cut_YX)
    for top in range(rows.start - top_0, wanted[0].stop, _BLOCK):
        for left in range(columns.start - left_0, wanted[1].stop, _BLOCK):
            outer = tuple(slice(max(0, start - margin), start + _BLOCK + margin) for start in (top, left))
            if hole_YX[top : top + _BLOCK, left : left + _BLOCK].any() and not hole_YX[outer].all():
                inner = tuple(
                    slice(start - part.start, start - part.start + _BLOCK)
                    for start, part in zip((top, left), outer, strict=True)
                )
                mirrored_YX = _mirrored(filled_YX[outer], cut_YX[outer], hole_YX[outer])
                filled_YX[top : top + _BLOCK, left : left + _BLOCK] = mirrored_YX[inner]
    return filled_YX[wanted]


def _shifted(window: Window, rows: int, columns: int) -> Window:
    y, x = window
    return slice(y.start + rows, y.stop + rows), slice(x.start + columns, x.stop + columns)


def in_window(
    result_YX: npt.NDArray[np.generic], tissue: Window, statistics: SectionStatistics, window: Window
) -> npt.NDArray[np.generic]:
    """Put the result of tissue into a window of its section, with 0 (membrane) where there is no tissue.

    Parameters
    ----------
    result_YX : ndarray, shape of `tissue`
        Probabilities of cell interior, as float32 or uint8.
    tissue : (slice, slice)
        Of ``statistics.box`` that lies within the window, in the frame of the section.
    statistics : SectionStatistics
        Those of the section.
    window : (slice, slice)
        In the frame of the section.

    Returns
    -------
    ndarray of the same dtype, shape of the window
    """
    if statistics.canvas_YX is None:
        return result_YX
    shape = window[0].stop - window[0].start, window[1].stop - window[1].start
    out_YX = np.zeros(shape, result_YX.dtype)
    place = _shifted(tissue, -window[0].start, -window[1].start)
    out_YX[place] = np.where(statistics.canvas_YX[tissue], 0, result_YX)
    return out_YX


def _mirrored(filled_YX: Section, cut_YX: Section, hole_YX: Mask) -> Section:
    """Fill holes near tissue with its mirror image along rows or columns, whichever is nearer; then what is left."""
    out_YX = np.where(hole_YX, filled_YX, cut_YX)
    hole_YX = hole_YX.copy()
    height, width = hole_YX.shape
    for _ in range(2):
        holes = np.flatnonzero(hole_YX)
        y, x = np.divmod(holes, width)
        across = _nearest(y, x, width)
        turned = np.flatnonzero(hole_YX.T)
        along = np.empty(hole_YX.shape[::-1], np.intp)
        along.ravel()[turned] = _nearest(*np.divmod(turned, height), height)
        along = along.ravel()[x * height + y]
        by_row = np.abs(across - x) <= np.abs(along - y)
        edge_y, edge_x = np.where(by_row, y, along), np.where(by_row, across, x)
        near = np.abs(edge_y - y) + np.abs(edge_x - x) <= _REACH
        y, x, edge_y, edge_x = y[near], x[near], edge_y[near], edge_x[near]
        image_y, image_x = 2 * edge_y - y, 2 * edge_x - x
        inside = (image_y >= 0) & (image_y < height) & (image_x >= 0) & (image_x < width)
        inside[inside] = ~hole_YX[image_y[inside], image_x[inside]]
        out_YX[y, x] = out_YX[np.where(inside, image_y, edge_y), np.where(inside, image_x, edge_x)]
        hole_YX[y, x] = False
    return out_YX


def _nearest(row: Indices, place: Indices, length: int) -> Indices:
    """Find for every hole, sorted by row and place, the place of the nearest pixel in its row that is none.

    Where a whole row is a hole, the place is far away.
    """
    new_run = (np.diff(row, prepend=-1) != 0) | (np.diff(place, prepend=-2) != 1)
    starts = np.flatnonzero(new_run)
    lengths = np.diff(starts, append=len(place))
    before = place[starts] - 1
    after = place[starts] + lengths
    before, after = np.where(before < 0, -_FAR, before), np.where(after >= length, _FAR, after)
    before, after = np.repeat(before, lengths), np.repeat(after, lengths)
    return np.where(place - before <= after - place, before, after)
