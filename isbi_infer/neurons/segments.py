"""Segments of one section: cells by a threshold, membrane thinned to lines, as the scores do it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import UsageError
from isbi_infer.volumes.pixel_size import PixelSize

Labels = npt.NDArray[np.uint32]

_SIZE = re.compile(r"(\d+(?:\.\d+)?) *(px|nm2|nm\^2)?")


def thinned_labels(cell_YX: npt.NDArray[np.bool_]) -> Labels:
    """Label the cells of a section, and thin the membrane between them to lines.

    Parameters
    ----------
    cell_YX : bool array
        Where there is cell.

    Returns
    -------
    uint32 array of the same shape
        Cells from 1, by their first pixel in column-major order; 0 on lines. One cell all over where there
        is none, as the scores count it.

    Raises
    ------
    DependencyError
        If numba cannot compile the kernels.
    """
    from isbi_infer.neurons.kernels import compiling
    from isbi_infer.neurons.thinning import LINE, flood

    rows, columns = cell_YX.shape
    labels = np.full((columns + 2) * (rows + 2), LINE, np.int32)
    parent, queue = np.empty(columns * rows // 2 + 2, np.int32), np.empty(columns * rows, np.int32)
    with compiling():
        flood(np.ascontiguousarray(cell_YX.T, np.uint8), 0, labels, parent, queue)
    inner_YX = labels.reshape(columns + 2, rows + 2)[1:-1, 1:-1].T
    return np.ascontiguousarray(np.maximum(inner_YX, 0), np.uint32)


def segment_section(
    probability_YX: npt.NDArray[Any], threshold: float = 0.5, *, min_pixels: float = 0
) -> Labels:
    """Cut a section into cells.

    Parameters
    ----------
    probability_YX : float32 or float64 array
        Probability of cell.
    threshold : float
        A pixel is cell where its probability, in double precision, is above it.
    min_pixels : float
        Segments of fewer pixels, after thinning, are left out; their pixels become 0.

    Returns
    -------
    uint32 array of the same shape
        As of `thinned_labels`, numbered without gaps; all 0 where nothing is above the threshold.
    """
    cell_YX = probability_YX > np.float64(threshold)
    if not cell_YX.any():
        return np.zeros(cell_YX.shape, np.uint32)
    labels_YX = thinned_labels(cell_YX)
    if min_pixels > 1:
        large = np.bincount(labels_YX.ravel()) >= min_pixels
        large[0] = False
        labels_YX = np.where(large, np.cumsum(large), 0).astype(np.uint32)[labels_YX]
    return labels_YX


def pixels_of_size(text: str, pixel_size: PixelSize | None) -> float:
    """Read the area of a segment.

    Parameters
    ----------
    text : str
        Pixels, "50" or "50px", or square nanometres, "20000nm2".
    pixel_size : PixelSize or None
        Of the section.

    Returns
    -------
    float
        In pixels.

    Raises
    ------
    UsageError
        If it is no area, or the size of a pixel is needed and not known.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"--min-size {text} is no area; expected pixels or square nanometres: 50px or 20000nm2"
        )
    area = float(found[1])
    if found[2] in (None, "px"):
        return area
    if pixel_size is None:
        raise UsageError(
            f"--min-size {text}: the file does not say how large its pixels are; add --pixel-size, or use pixels: 50px"
        )
    return area / (pixel_size.y_nm * pixel_size.x_nm)
