"""The segments of one section: what the challenge's scores count, as labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.neurons.kernels import compiling
from isbi_infer.neurons.thinning import LINE, flood, levels

Labels = npt.NDArray[np.int32]


class Segmentation:
    """Segments sections one after the other, in memory that is used again.

    Parameters
    ----------
    threshold : float
        Pixels of a higher probability are cell.
    smallest : int
        Segments of fewer pixels are left out.
    """

    def __init__(self, threshold: float, smallest: int = 0) -> None:
        self._threshold = np.array([threshold])
        self._smallest = smallest
        self._scratch: tuple[tuple[int, ...], list[npt.NDArray[np.int32]]] = ((), [])

    def __call__(self, probability_YX: npt.NDArray[Any]) -> tuple[Labels, int]:
        """Return the segments of a section.

        Parameters
        ----------
        probability_YX : ndarray of float32, shape (Y, X)
            Of cell interior, in [0, 1].

        Returns
        -------
        (ndarray of int32, int)
            Labels of shape (Y, X): segments from 1 in the order of their first pixel, 0 for the lines between them; and
            how many there are. Components of cell are flooded into the membrane between them until they meet, as in
            V_rand and V_info after border thinning.
        """
        with compiling():
            level_XY = levels(np.ascontiguousarray(probability_YX.T), self._threshold)
        if not level_XY.any():  # not one segment of all, as for the scores
            return np.zeros(probability_YX.shape, np.int32), 0
        columns, rows = level_XY.shape
        if self._scratch[0] != level_XY.shape:
            self._scratch = (
                level_XY.shape,
                [np.empty(columns * rows // 2 + 2, np.int32), np.empty(columns * rows, np.int32)],
            )
        framed = np.full((columns + 2) * (rows + 2), LINE, np.int32)
        with compiling():
            count, _ = flood(level_XY, 0, framed, *self._scratch[1])
        labels_YX = framed.reshape(columns + 2, rows + 2)[1:-1, 1:-1].T
        labels_YX = np.maximum(labels_YX, 0)
        if self._smallest > 1:
            kept = np.bincount(labels_YX.ravel(), minlength=count + 1) >= self._smallest
            kept[0] = False
            labels_YX = np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels_YX]
            count = int(kept.sum())
        return np.ascontiguousarray(labels_YX), count
