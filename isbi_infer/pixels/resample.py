"""Sections brought to the model's pixel size, and results brought back: separable linear interpolation.

Where pixels get larger the triangle of linear interpolation is widened by as much, so that nothing aliases. Beyond the
edges a section goes on as its edge pixels. Whole sections are resampled before they are cut into tiles, so that tiles
stay exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_PIXELS, _ROWS = 2**16, 64  # that are interpolated at once, the latter at least

Window = tuple[slice, slice]


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
    whole = slice(0, shape[0]), slice(0, shape[1])
    return resample_window(image_YX, (0, 0), (image_YX.shape[0], image_YX.shape[1]), shape, whole)


def resample_window(
    part_YX: npt.NDArray[Any],
    origin: tuple[int, int],
    image_shape: tuple[int, int],
    shape: tuple[int, int],
    window: Window,
) -> npt.NDArray[np.float32]:
    """Interpolate a window of what `resample` returns, to the same bits, from a part of the image.

    Parameters
    ----------
    part_YX : ndarray
        Holds what `resample_source` returns for the window.
    origin : (int, int)
        Where in the image the part begins.
    image_shape, shape : (int, int)
        Of the whole image and of its whole interpolation.
    window : (slice, slice)
        Of the interpolation.

    Returns
    -------
    ndarray of float32, shape of the window
    """
    rows_YX = _along_rows(part_YX, origin[0], image_shape[0], shape[0], window[0])
    return np.ascontiguousarray(_along_rows(rows_YX.T, origin[1], image_shape[1], shape[1], window[1]).T)


def resample_source(image_shape: tuple[int, int], shape: tuple[int, int], window: Window) -> Window:
    """Return the window of an image that a window of its interpolation is made of."""
    spans = []
    for size, count, part in zip(image_shape, shape, window, strict=True):
        places = _taps(size, count)[0][:, part]
        spans.append(slice(int(places.min()), int(places.max()) + 1))
    return spans[0], spans[1]


def _along_rows(
    part_YX: npt.NDArray[Any], first: int, size: int, count: int, wanted: slice
) -> npt.NDArray[np.float32]:
    """Interpolate along the first axis, of whose `size` places the part begins at the first."""
    places, weights = _taps(size, count)
    places, weights = places[:, wanted] - first, weights[:, wanted, None]
    out_YX = np.empty((places.shape[1], part_YX.shape[1]), np.float32)
    step = max(_ROWS, _PIXELS // max(1, part_YX.shape[1]))
    for start in range(0, len(out_YX), step):  # what the processor's cache holds
        rows = slice(start, start + step)
        low, high = int(places[:, rows].min()), int(places[:, rows].max()) + 1
        near_YX = np.ascontiguousarray(part_YX[low:high])  # columns of a transposed part lie far apart
        total_YX = out_YX[rows]
        np.multiply(near_YX[places[0, rows] - low], weights[0, rows], out=total_YX, dtype=np.float32)
        for place, weight in zip(places[1:, rows] - low, weights[1:, rows], strict=True):
            total_YX += near_YX[place].astype(np.float32) * weight
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
