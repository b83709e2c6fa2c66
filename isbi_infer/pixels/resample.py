"""Sections brought to the model's pixel size, and results brought back: separable linear interpolation.

Where pixels get larger the triangle of linear interpolation is widened by as much, so that nothing aliases. Beyond the
edges a section goes on as its edge pixels. Whole sections are resampled before they are cut into tiles, so that tiles
stay exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_ROWS = 256


def resample(image_YX: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Interpolate an image to another number of pixels over the same field of view.

    Parameters
    ----------
    image_YX : ndarray, shape (Y, X)
        Integers or floats.
    shape : (int, int)
        (Y, X) wanted.

    Returns
    -------
    ndarray of float32, of this shape
        Within the image's range.
    """
    rows_YX = _along_rows(image_YX, shape[0])
    return np.ascontiguousarray(_along_rows(rows_YX.T, shape[1]).T)


def _along_rows(image_YX: npt.NDArray[Any], count: int) -> npt.NDArray[np.float32]:
    """Interpolate along the first axis."""
    places, weights = _taps(len(image_YX), count)
    out_YX = np.empty((count, image_YX.shape[1]), np.float32)
    for start in range(0, count, _ROWS):  # bounds the temporaries
        part = slice(start, start + _ROWS)
        total_YX = np.zeros((len(out_YX[part]), image_YX.shape[1]), np.float32)
        for place, weight in zip(places[:, part], weights[:, part], strict=True):
            total_YX += image_YX[place].astype(np.float32) * weight[:, None]
        out_YX[part] = total_YX
    return out_YX


def _taps(size: int, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return what each of `count` outputs reads of `size` inputs: places and weights, both (taps, count)."""
    step = size / count
    reach = max(1.0, step)
    centres = (np.arange(count) + 0.5) * step - 0.5
    first = np.floor(centres - reach).astype(np.intp) + 1
    places = first + np.arange(int(np.ceil(2 * reach)))[:, None]
    weights = np.maximum(0.0, 1 - np.abs(places - centres) / reach)
    weights /= weights.sum(axis=0)
    return np.clip(places, 0, size - 1), weights.astype(np.float32)
