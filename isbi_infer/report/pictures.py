"""Sections made small and put into picture files, read in bands so that no section is held whole for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isbi_infer.report.colours import MOST, Labels, hue, indexed

if TYPE_CHECKING:
    from PIL.Image import Image

Read = Callable[[tuple[slice, slice]], npt.NDArray[Any]]  # rows and columns, with start and stop
Values = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

# Okabe and Ito's palette, which colour-blind readers can tell apart
OUTLINE = (230, 159, 0)
SPLIT, MERGER = (0, 114, 178), (213, 94, 0)

_READ_PIXELS = 2**26  # at a time: a TIFF's section is decoded whole for each window
_MEAN_PIXELS = 2**20  # likewise, of temporaries in double precision
_SHOWN_RANGE = (0.5, 99.5)  # percentiles of grey values: what lies beyond is drawn black or white


def evenly(count: int, most: int) -> list[int]:
    """Choose at most so many of the sections, spread evenly with the first and the last.

    Parameters
    ----------
    count, most : int
        How many there are and how many may be chosen, both at least 1.

    Returns
    -------
    list of int
        Ascending, from 0.
    """
    chosen: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return chosen


def factor_for(shape: tuple[int, int], side: int) -> int:
    """Return how many pixels along each axis become one, so that no side is longer than `side`."""
    return -(-max(shape) // side)


def shrunk(read: Read, shape: tuple[int, int], factor: int) -> Values:
    """Return the means of squares of pixels; those cut off by the edges are the means of what there is.

    Parameters
    ----------
    read : callable
        Returns a window of the section.
    shape : (int, int)
        (Y, X) of the section, in pixels.
    factor : int
        Side of a square; 1 leaves the section as it is.

    Returns
    -------
    ndarray of float32, shape (ceil(Y / factor), ceil(X / factor))
    """
    height, width = shape
    rows = max(1, _READ_PIXELS // (width * factor)) * factor
    few = max(1, _MEAN_PIXELS // (width * factor)) * factor
    parts = []
    for start in range(0, height, rows):
        band_YX = read((slice(start, min(start + rows, height)), slice(0, width)))
        parts += [_means(band_YX[row : row + few], factor) for row in range(0, len(band_YX), few)]
    return np.concatenate(parts)


def _means(values_YX: npt.NDArray[Any], factor: int) -> Values:
    if factor == 1:
        return values_YX.astype(np.float32)
    starts = [np.arange(0, size, factor) for size in values_YX.shape]
    sums_YX = np.add.reduceat(
        np.add.reduceat(values_YX, starts[0], axis=0, dtype=np.float64), starts[1], axis=1
    )
    counts = [np.diff(np.append(start, size)) for start, size in zip(starts, values_YX.shape, strict=True)]
    means_YX: Values = (sums_YX / np.outer(*counts)).astype(np.float32)
    return means_YX


def whole(values_YX: npt.NDArray[Any]) -> Read:
    """Return what reads windows of a section that is in memory."""
    return lambda window: values_YX[window]


def thick_lines(mask_YX: Mask, factor: int) -> Mask:
    """Return which squares of a mask hold a pixel or are beside one that does, so that thin lines are seen."""
    near_YX = np.pad(_means(mask_YX, factor) > 0, 1)
    for axis in (0, 1):
        near_YX = near_YX | np.roll(near_YX, 1, axis) | np.roll(near_YX, -1, axis)
    inner_YX: Mask = near_YX[1:-1, 1:-1]
    return inner_YX


def nearest(values_YX: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """Return the pixel in the middle of each square, for values that have no mean; see `shrunk`."""
    if factor == 1:
        return values_YX
    starts = [np.arange(0, size, factor) for size in values_YX.shape]
    rows, columns = (
        start + np.minimum(factor, size - start) // 2
        for start, size in zip(starts, values_YX.shape, strict=True)
    )
    return values_YX[np.ix_(rows, columns)]


def stretched(values_YX: npt.NDArray[Any]) -> Values:
    """Return grey values in [0, 1], the darkest and brightest half percent cut off."""
    low, high = (float(grey) for grey in np.percentile(values_YX, _SHOWN_RANGE))
    stretched_YX: Values = np.clip((values_YX.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    return stretched_YX


def outlines(probability_YX: Values, threshold: float) -> Mask:
    """Return the pixels beside which the probability crosses a threshold, to the right or below."""
    cell_YX = probability_YX > threshold
    edge_YX = np.zeros(cell_YX.shape, bool)
    edge_YX[:-1] |= cell_YX[:-1] != cell_YX[1:]
    edge_YX[:, :-1] |= cell_YX[:, :-1] != cell_YX[:, 1:]
    return edge_YX


def to_bytes(values_YX: Values) -> Grey:
    """Return values in [0, 1] as round(255 v)."""
    levels_YX: Grey = np.rint(values_YX * np.float32(255)).astype(np.uint8)
    return levels_YX


def jpeg(grey_YX: Grey) -> bytes:
    """Return a grey picture as JPEG, for what is only looked at."""
    return _saved(_image(grey_YX), format="JPEG", quality=85)


def png(picture: Grey) -> bytes:
    """Return a grey (Y, X) or coloured (Y, X, 3) picture as PNG, to the bit."""
    return _saved(_image(picture), format="PNG", optimize=False, compress_level=9)


def lines_png(splits_YX: Mask, mergers_YX: Mask) -> bytes:
    """Return splits and mergers in their colours as PNG, clear elsewhere."""
    return _indexed(np.where(mergers_YX, 2, splits_YX).astype(np.uint8), [SPLIT, MERGER])


def label_png(labels_YX: Labels, chosen: Mapping[int, int]) -> bytes:
    """Return segments as PNG, clear where there is none.

    Parameters
    ----------
    labels_YX : ndarray of integers, shape (Y, X)
        Ids from 1; 0 = none.
    chosen : mapping of int to int
        The colour of each id, from `isbi_infer.report.colours.colours_apart`.
    """
    return _indexed(indexed(labels_YX, chosen), [hue(number) for number in range(MOST)])


def _indexed(index_YX: Grey, colours: list[tuple[int, int, int]]) -> bytes:
    image = _image(index_YX)
    image.putpalette([0, 0, 0, *(part for colour in colours for part in colour)])
    return _saved(image, format="PNG", transparency=0, compress_level=9)


def _image(picture: Grey) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(picture))


def _saved(image: Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()
