"""Images that are read by windows: what is measured of a section need not hold it whole.

An array and a `Windowed` image answer ``image[rows]`` and ``image[rows, columns]`` alike, so one function measures
both, in the same bands and the same order, and so to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Window = tuple[slice, slice]
Mask = npt.NDArray[np.bool_]
MaskOfRows = Callable[[slice], Mask]

SLAB = 2**20  # pixels that are held of a windowed image
_BAND = 2**21  # pixels at a time where temporaries are large


class Grid(Protocol):
    """What an array of two axes and a windowed image have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(Y, X), in pixels."""

    @property
    def dtype(self) -> Any:
        """Of the pixels."""

    @property
    def size(self) -> int:
        """Number of pixels."""

    def __getitem__(self, window: Any, /) -> Any:
        """Return rows, or a window of rows and columns."""


class Windowed:
    """An image behind a function that reads windows of it; a slab of it is held, and no more.

    Parameters
    ----------
    read : callable
        Returns a window (slice, slice), with start and stop, as an array.
    shape : (int, int)
        (Y, X), in pixels.
    dtype : dtype-like
        Of what `read` returns.
    held : int
        Pixels of the slab, about; at least a row, or a column.
    """

    def __init__(
        self,
        read: Callable[[Window], npt.NDArray[Any]],
        shape: tuple[int, int],
        dtype: npt.DTypeLike,
        held: int = SLAB,
    ) -> None:
        self._read, self._most = read, max(1, held)
        self.shape: tuple[int, ...] = shape
        self.dtype = np.dtype(dtype)
        self.size, self.ndim = shape[0] * shape[1], 2
        self._held: tuple[Window, npt.NDArray[Any]] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, window: slice | Window) -> npt.NDArray[Any]:
        """Return rows, or a window; slices may have a step. What is returned is not to be written to."""
        rows, columns = window if isinstance(window, tuple) else (window, slice(None))
        top, bottom, down = rows.indices(self.shape[0])
        left, right, across = columns.indices(self.shape[1])
        bottom, right = max(top, bottom), max(left, right)
        held = self._held
        if held is None or not (_within((top, bottom), held[0][0]) and _within((left, right), held[0][1])):
            self._held = held = None  # first of all, for both may not fit
            slab = self._slab((top, bottom), (left, right))
            held = self._held = slab, self._read(slab)
        (y, x), pixels_YX = held
        return pixels_YX[top - y.start : bottom - y.start : down, left - x.start : right - x.start : across]

    def _slab(self, rows: tuple[int, int], columns: tuple[int, int]) -> Window:
        """Return what is read for a window: whole rows around it, or whole columns where it has all rows."""
        height, width = self.shape
        if rows == (0, height) and columns != (0, width):
            return slice(0, height), _around(columns, max(1, self._most // height), width)
        return _around(rows, max(1, self._most // width), height), slice(0, width)


def _around(span: tuple[int, int], step: int, size: int) -> slice:
    start = span[0] // step * step
    return slice(start, min(size, max(span[1], start + step)))


def _within(span: tuple[int, int], outer: slice) -> bool:
    return bool(outer.start <= span[0] and span[1] <= outer.stop)


def bands(start: int, stop: int, width: int) -> Iterator[slice]:
    """Cut rows into bands of about two million pixels.

    Parameters
    ----------
    start, stop : int
        First row, and the one after the last.
    width : int
        Pixels of a row.
    """
    rows = max(1, _BAND // max(1, width))
    for first in range(start, stop, rows):
        yield slice(first, min(first + rows, stop))


def all_of(mask: Mask, count: int, axis: int) -> Mask:
    """Return for each place whether `count` values from there along an axis are all true."""
    return over(np.logical_and, mask, count, axis)


def over(operation: np.ufunc, mask: Mask, count: int, axis: int) -> Mask:
    """Combine `count` values from each place along an axis; the result is shorter by ``count - 1``."""
    done = 1
    while done < count and mask.shape[axis]:
        step = min(done, count - done)
        early, late = (
            (slice(None),) * axis + (slice(None, -step),),
            (slice(None),) * axis + (slice(step, None),),
        )
        mask = operation(mask[early], mask[late])
        done += step
    return mask


def dilated(mask_YX: Mask, before: int, after: int) -> Mask:
    """Widen by so many pixels towards the beginning and the end of both axes; the result is larger by as much."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (before + after, before + after)
        mask_YX = over(np.logical_or, np.pad(mask_YX, pad), before + after + 1, axis)
    return mask_YX


def opened(mask_YX: Mask, side: int) -> Mask:
    """Keep what some square of true pixels covers."""
    if min(mask_YX.shape) < side:
        return np.zeros_like(mask_YX)
    return dilated(all_of(all_of(mask_YX, side, 0), side, 1), 0, side - 1)


def has_square(mask: MaskOfRows, rows: slice, width: int, side: int) -> bool:
    """Return whether a mask holds a square of true pixels.

    Parameters
    ----------
    mask : callable
        Returns rows of it.
    rows : slice
        All rows that there are.
    width : int
        Pixels of a row.
    side : int
        Of the square, in pixels.
    """
    for band in bands(rows.start, rows.stop - side + 1, width):
        part_YX = mask(slice(band.start, band.stop + side - 1))
        if all_of(all_of(part_YX, side, 0), side, 1).any():
            return True
    return False
