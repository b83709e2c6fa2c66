"""A section made ready for a network: cut to its tissue, its holes filled by mirror images; and the way back.

A network knows the edge of an image from its training, but not a step from tissue to canvas. So margins of canvas are
cut off, which leaves the result that the section would have without them, to the last bit. Canvas within the rectangle
that remains, as after a rotation, continues the tissue as its mirror image; so do hot pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.canvas import Mask, Section
from isbi_infer.pixels.normalise import Statistics, intensity_statistics
from isbi_infer.pixels.statistics import SectionStatistics, section_statistics

_REACH = 32  # px; on sections with canvas 96 pixels gave the same scores, 8 px and a plain mean lower ones
_BLOCK = 1024  # px, side of what is filled at a time
_FAR = 2**30
Indices = npt.NDArray[np.intp]


def normalising(pixels: Section, statistics: SectionStatistics) -> Statistics:
    """Return the mean and standard deviation by which a section's tissue is normalised.

    Parameters
    ----------
    pixels : ndarray, integer or floating dtype
        The section, or from `tissue_of`.
    statistics : SectionStatistics
        Those of the section.

    Returns
    -------
    Statistics
        `statistics`, or the same without the rounding of a histogram, for floats of a section that is all tissue.
    """
    integers = pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2  # counted one by one
    if integers or statistics.canvas_YX is not None or statistics.outliers:
        return statistics
    return intensity_statistics(pixels)


def normalising_section(section_YX: Section) -> Statistics:
    """Return the mean and standard deviation by which a whole section is normalised: those of its tissue."""
    return normalising(section_YX, section_statistics(section_YX))


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
    ndarray of the same dtype, shape of ``statistics.box``
        All finite and within the fences; a view of the section where there is nothing to fill.
    """
    cut_YX = section_YX[statistics.box]
    hole_YX = None if statistics.canvas_YX is None else statistics.canvas_YX[statistics.box]
    if statistics.outliers:
        beyond_YX = (cut_YX < statistics.low) | (cut_YX > statistics.high)
        hole_YX = beyond_YX if hole_YX is None else beyond_YX | hole_YX
    if hole_YX is None or not hole_YX.any():
        return cut_YX
    filled_YX = np.where(hole_YX, np.asarray(statistics.fill, section_YX.dtype), cut_YX)
    margin = 4 * _REACH  # what two rounds of mirroring read
    for top in range(0, len(cut_YX), _BLOCK):
        for left in range(0, cut_YX.shape[1], _BLOCK):
            outer = tuple(slice(max(0, start - margin), start + _BLOCK + margin) for start in (top, left))
            if hole_YX[top : top + _BLOCK, left : left + _BLOCK].any() and not hole_YX[outer].all():
                inner = tuple(
                    slice(start - part.start, start - part.start + _BLOCK)
                    for start, part in zip((top, left), outer, strict=True)
                )
                mirrored_YX = _mirrored(filled_YX[outer], cut_YX[outer], hole_YX[outer])
                filled_YX[top : top + _BLOCK, left : left + _BLOCK] = mirrored_YX[inner]
    return filled_YX


def whole_section(
    result_YX: npt.NDArray[np.generic], statistics: SectionStatistics, shape: tuple[int, int]
) -> npt.NDArray[np.generic]:
    """Put the result of a section's tissue back into the section, with 0 (membrane) where there is no tissue.

    Parameters
    ----------
    result_YX : ndarray, shape of ``statistics.box``
        Probabilities of cell interior, as float32 or uint8.
    statistics : SectionStatistics
        Those of the section.
    shape : (int, int)
        The section's (Y, X).

    Returns
    -------
    ndarray of the same dtype, of this shape
        `result_YX` itself where all is tissue.
    """
    if statistics.canvas_YX is None:
        return result_YX
    whole_YX = np.zeros(shape, result_YX.dtype)
    whole_YX[statistics.box] = np.where(statistics.canvas_YX[statistics.box], 0, result_YX)
    return whole_YX


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
