"""Where a segmentation splits cells of the ground truth or merges them: the lines that say so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isbi_infer.neurons.segments import Labels, thinned_labels

Mask = npt.NDArray[np.bool_]

_SHARE = 0.25


def error_lines(found_YX: Mask, cell_YX: Mask) -> tuple[Mask, Mask]:
    """Find the lines of both kinds of errors in a section.

    Parameters
    ----------
    found_YX : bool array, shape (Y, X)
        Where the segmentation has cell.
    cell_YX : bool array of the same shape
        Where the ground truth has.

    Returns
    -------
    (bool array, bool array)
        Splits: borders drawn through one cell. Mergers: borders between two cells that came out as one.
    """
    thinned_YX, truth_YX = thinned_labels(found_YX), thinned_labels(cell_YX)
    return split_lines(thinned_YX, np.where(cell_YX, truth_YX, 0)), split_lines(truth_YX, thinned_YX)


def split_lines(finer: Labels, coarser: Labels) -> Mask:
    """Find the lines of one segmentation that cut segments of another.

    Parameters
    ----------
    finer : int32 array, shape (Y, X)
        Thinned segments from 1; 0 on the lines between them.
    coarser : int32 array of the same shape
        Segments from 1; 0 on lines and membrane.

    Returns
    -------
    bool array
        Lines between two segments of `finer` that both belong to the segment of `coarser` they run through. Two
        segments belong together if they share a quarter of the smaller one, so that a border which is merely
        drawn a few pixels away counts as no error.
    """
    cuts: Mask = (finer == 0) & (coarser > 0)
    y, x = np.nonzero(cuts)
    together, framed = _together(finer, coarser), np.pad(finer, 1)
    low, high = np.full(y.size, np.iinfo(np.int32).max), np.zeros(y.size, np.int32)
    for dy, dx in np.ndindex(3, 3):
        near = framed[y + dy, x + dx]
        belongs = np.isin(_codes(near, coarser[y, x]), together)
        low = np.where(belongs, np.minimum(low, near), low)
        high = np.where(belongs, np.maximum(high, near), high)
    cuts[y, x] = low < high
    return cuts


def _codes(finer: Labels, coarser: Labels) -> npt.NDArray[np.int64]:
    """Make one number of a pair of segments; 0 where either is a line."""
    return np.where((finer > 0) & (coarser > 0), finer.astype(np.int64) << 32 | coarser, 0)


def _together(finer: Labels, coarser: Labels) -> npt.NDArray[np.int64]:
    inside = (finer > 0) & (coarser > 0)
    codes, shared = np.unique(_codes(finer[inside], coarser[inside]), return_counts=True)
    sizes = [np.bincount(segments[inside]) for segments in (finer, coarser)]
    smaller = np.minimum(sizes[0][codes >> 32], sizes[1][codes & 0xFFFFFFFF])
    together: npt.NDArray[np.int64] = codes[shared >= _SHARE * smaller]
    return together
