"""Which segments of neighbouring sections are of one cell: those that overlap each other most."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer]


def mutual_best_overlap(before_YX: Labels, after_YX: Labels) -> npt.NDArray[np.int64]:
    """Pair segments of two sections, each with the one that it shares most pixels with, if that is so both ways.

    Of several with as many pixels the lowest label counts. Taking the best one way only joins everything in the
    end: one false step in any section is enough, and a large segment is the best of many small ones.

    Parameters
    ----------
    before_YX, after_YX : ndarray of integers, shape (Y, X)
        Segments from 1; 0 for none.

    Returns
    -------
    ndarray of int64, shape (N, 2)
        Labels of pairs, one row each, ascending; no label is in two of them.
    """
    shared = (before_YX > 0) & (after_YX > 0)
    most = int(after_YX.max(initial=0)) + 1
    pairs, pixels = np.unique(
        before_YX[shared].astype(np.int64) * most + after_YX[shared], return_counts=True
    )
    before, after = np.divmod(pairs, most)
    best_after = _best(before, after, pixels)
    best_before = _best(after, before, pixels)
    return np.array(
        [(one, other) for one, other in best_after.items() if best_before[other] == one], np.int64
    ).reshape(-1, 2)


def _best(
    of: npt.NDArray[np.int64], among: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64]
) -> dict[int, int]:
    """Return for each label of the first array the partner with most pixels, the lowest one of equals."""
    order = np.lexsort((among, -pixels, of))
    of, among = of[order], among[order]
    first = np.flatnonzero(np.r_[True, of[1:] != of[:-1]]) if len(of) else np.array([], np.intp)
    return dict(zip(of[first].tolist(), among[first].tolist(), strict=True))
