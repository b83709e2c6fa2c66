"""What of a section is no tissue: the canvas that aligned sections stand in, no-data values, blank sections.

Canvas is a large connected region of exactly one grey value that ends abruptly. Tissue that was clipped to black or
white is flat too, but in smaller and ragged patches, beyond which the grey value changes slowly::

    windows of 32 x 32 equal pixels,  ->  grown through windows of 4 x 4  ->  judged by the step at its rim
    a corner or a long edge               equal pixels                        (unless it holds a long edge)

All that is done is comparing neighbours, so the canvas turns and flips with the section; and all of it is done band by
band, so a section need not be held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log2
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.flat import GREATEST_GREY, flat_regions, paint
from isbi_infer.pixels.windows import Grid, Mask, MaskOfRows, bands, has_square, opened

Section = npt.NDArray[Any]

_NO_DATA = 8  # px, side of the smallest patch where a no-data value is a grey value too
_TISSUE = 16  # px, side of the smallest square that counts as tissue left
_LAGS = (4, 7, 16)  # px
_BAND = 2**16  # pixels at a time, so that temporaries stay small
_DIGIT = 2**16


class MaskGrid(Protocol):
    """A mask that is written and read by rows, in memory or on the disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(Y, X), in pixels."""

    def __getitem__(self, window: Any, /) -> Mask:
        """Return rows, or a window of rows and columns."""

    def __setitem__(self, rows: slice, mask_YX: Mask, /) -> None:
        """Store whole rows."""


def _in_memory(shape: tuple[int, ...]) -> MaskGrid:
    return np.zeros(shape, np.bool_)


def find_canvas(
    section_YX: Grid,
    *,
    nodata: float | None = None,
    mask_YX: Mask | None = None,
    store: Callable[[tuple[int, ...]], MaskGrid] = _in_memory,
) -> MaskGrid | None:
    """Find the pixels of a section that are no tissue.

    Parameters
    ----------
    section_YX : ndarray or Windowed, shape (Y, X), integer or floating dtype
        Grey values. Those of no tissue may be NaN where `mask_YX` or `nodata` says so.
    nodata : float, optional
        The value that stands for "no data", as GDAL's tag has it. Where it could be a grey value as well, as 0 in an
        8-bit section, it counts only in patches of 8 x 8 pixels and more.
    mask_YX : ndarray of bool, shape (Y, X), optional
        True where the section is known to have no tissue.
    store : callable
        Makes a mask of a shape; an array when not given.

    Returns
    -------
    MaskGrid of bool, shape (Y, X), or None
        True where there is no tissue, everywhere in a blank section; None where all is tissue.
    """
    height, width = section_YX.shape
    known = _no_data(section_YX, nodata, mask_YX)
    regions = flat_regions(section_YX, known)
    if known is None and not regions:
        return None
    canvas_YX = store(section_YX.shape)
    for rows in bands(0, height, width):
        part_YX = np.zeros((rows.stop - rows.start, width), np.bool_) if known is None else known(rows)
        paint(part_YX, (rows, slice(0, width)), regions, True)
        canvas_YX[rows] = part_YX
    side = min(_TISSUE, height, width)
    if not has_square(lambda rows: ~canvas_YX[rows], slice(0, height), width, side):
        for rows in bands(0, height, width):
            canvas_YX[rows] = np.ones((rows.stop - rows.start, width), np.bool_)
    return canvas_YX


def has_structure(section_YX: Grid, canvas_YX: Any = None, offset: float = 0.0, std: float = 1.0) -> bool:
    """Whether a section shows more than the noise of a camera.

    Pixels 4 apart are more alike than pixels 16 apart in every tissue: by 10 % of their mean squared difference at
    least, as measured at 4 to 16 nm per pixel, and by 6 % below noise of twice its contrast. In noise, whether or not
    it was interpolated or lies on a gradient of light, the two differ by 2.5 % at most.

    Parameters
    ----------
    section_YX : ndarray or Windowed, shape (Y, X), integer or floating dtype
        Grey values, without outliers.
    canvas_YX : mask of bool, shape (Y, X), optional
        Pixels that are left out; read by windows.
    offset : float
        A grey value of the tissue; differences from it are taken in float64.
    std : float
        Standard deviation of the tissue. Where float32 does not hold its square, differences are scaled.

    Returns
    -------
    bool
        True also where there are too few pixels to tell.
    """
    if section_YX.size < 2 * 128**2:
        return True
    height, width = section_YX.shape
    scale = 1.0 if 2.0**-48 < std < 2.0**48 else 2.0 ** min(-round(log2(std)), 1000)
    # A quarter of the rows suffices to see what nearly every section shows; only all pixels can exclude it.
    quarter = _differences(_rows(section_YX, canvas_YX, 4), width, (height + 3) // 4, offset, scale)
    if _largest_ratio(quarter) > 1.2:
        return True
    along = _differences(_rows(section_YX, canvas_YX, 1), width, height, offset, scale)
    across = _differences(_columns(section_YX, canvas_YX), height, width, offset, scale)
    both = [(a + b, n + m) for (a, n), (b, m) in zip(along, across, strict=True)]
    return min(count for _, count in both) < 2 * 128**2 or _largest_ratio(both) > 1.03


_Read = Callable[[int, int], tuple[Section, Mask | None]]


def _rows(section_YX: Grid, canvas_YX: Any, every: int) -> _Read:
    def read(start: int, stop: int) -> tuple[Section, Mask | None]:
        part = slice(start * every, stop * every, every)
        return section_YX[part], None if canvas_YX is None else canvas_YX[part]

    return read


def _columns(section_YX: Grid, canvas_YX: Any) -> _Read:
    def read(start: int, stop: int) -> tuple[Section, Mask | None]:
        part = slice(None), slice(start, stop)
        return section_YX[part].T, None if canvas_YX is None else canvas_YX[part].T

    return read


def _largest_ratio(sums: list[tuple[float, int]]) -> float:
    means = [total / max(count, 1) for total, count in sums]
    return max(means) / min(means) if min(means) else np.inf


def _differences(
    read: _Read, length: int, lines: int, offset: float, scale: float
) -> list[tuple[float, int]]:
    """Sum and count squared differences of pixels of a line, for each lag; `read` returns lines and their canvas."""
    totals, counts = [0.0] * len(_LAGS), [0] * len(_LAGS)
    step = max(1, _BAND // length)
    for start in range(0, lines, step):
        band_YX, canvas_YX = read(start, min(start + step, lines))
        if band_YX.dtype.itemsize > 2:  # before float32 loses what is small beside a large offset
            band_YX = band_YX - np.float64(offset)
            if scale != 1:
                band_YX *= scale
        if canvas_YX is not None:
            tissue_YX = ~canvas_YX
            band_YX = np.where(tissue_YX, band_YX, 0)
        band_YX = band_YX.astype(np.float32)
        for number, lag in enumerate(_LAGS):
            difference_YX = band_YX[:, lag:] - band_YX[:, :-lag]
            if canvas_YX is not None:
                both_YX = tissue_YX[:, lag:] & tissue_YX[:, :-lag]
                difference_YX *= both_YX
                counts[number] += int(np.count_nonzero(both_YX))
            else:
                counts[number] += difference_YX.size
            totals[number] += float(np.vdot(difference_YX, difference_YX))
    return list(zip(totals, counts, strict=True))


def _no_data(section_YX: Grid, nodata: float | None, mask_YX: Mask | None) -> MaskOfRows | None:
    """Find what is known to be no tissue, whatever its shape; None where nothing is."""
    height, width = section_YX.shape
    tests: list[MaskOfRows] = []
    if mask_YX is not None:
        tests.append(lambda rows: mask_YX[rows])
    if section_YX.dtype.kind == "f":
        limit = np.finfo(section_YX.dtype).max if section_YX.dtype.itemsize == 2 else GREATEST_GREY
        if nodata is not None and np.isnan(nodata):
            tests.append(lambda rows: ~(np.abs(section_YX[rows]) < limit))
        else:
            tests.append(lambda rows: np.abs(section_YX[rows]) >= limit)
    if nodata is not None and not np.isnan(nodata):
        value = section_YX.dtype.type(nodata) if section_YX.dtype.kind == "f" else nodata

        def equal(rows: slice) -> Mask:
            found_YX: Mask = section_YX[rows] == value
            return found_YX

        def as_patches(rows: slice) -> Mask:
            first, last = max(0, rows.start - _NO_DATA + 1), min(height, rows.stop + _NO_DATA - 1)
            return opened(equal(slice(first, last)), _NO_DATA)[rows.start - first : rows.stop - first]

        alone = _stands_alone(section_YX, nodata, equal, tuple(tests))
        tests.append(equal if alone else as_patches)
    if not any(test(rows).any() for rows in bands(0, height, width) for test in tests):
        return None
    return lambda rows: np.logical_or.reduce([test(rows) for test in tests])


def _stands_alone(section_YX: Grid, nodata: float, equal: MaskOfRows, others: tuple[MaskOfRows, ...]) -> bool:
    """Return whether a no-data value lies farther from the grey values than these lie from one another."""

    def grey_values() -> Iterator[Section]:
        for rows in bands(0, section_YX.shape[0], section_YX.shape[1]):
            yield section_YX[rows][~np.logical_or.reduce([equal(rows), *(test(rows) for test in others)])]

    least, greatest, count = np.inf, -np.inf, 0
    for pixels in grey_values():
        if pixels.size:
            least, greatest = min(least, float(pixels.min())), max(greatest, float(pixels.max()))
            count += pixels.size
    if not count:
        return True
    middle = _median(grey_values, count, section_YX.dtype)
    nearest = least if nodata < middle else greatest
    return bool(nodata != middle and abs(nodata - nearest) > abs(nearest - middle))


def _median(parts: Callable[[], Iterator[Section]], count: int, dtype: np.dtype[Any]) -> float:
    """Return the median of values that come in parts, as `numpy.median` does, two bytes of them a pass."""
    middles = [_ranked(parts, rank, dtype) for rank in sorted({(count - 1) // 2, count // 2})]
    return float(np.median(np.array(middles, dtype)))


def _ranked(parts: Callable[[], Iterator[Section]], rank: int, dtype: np.dtype[Any]) -> Any:
    """Return the value that so many others do not exceed in order."""
    digits = max(1, dtype.itemsize // 2)
    known = 0
    for digit in reversed(range(digits)):
        counts = np.zeros(_DIGIT, np.int64)
        for pixels in parts():
            keys = _ordered(pixels) >> np.uint64(16 * digit)
            keys = keys[keys >> np.uint64(16) == np.uint64(known)]
            counts += np.bincount((keys & np.uint64(_DIGIT - 1)).astype(np.intp), minlength=_DIGIT)
        place = int(np.searchsorted(np.cumsum(counts), rank, "right"))
        rank -= int(counts[:place].sum())
        known = known << 16 | place
    for pixels in parts():
        found = pixels[_ordered(pixels) == np.uint64(known)]
        if found.size:
            return found[0]
    raise AssertionError("a value of this rank is among them")


def _ordered(pixels: Section) -> npt.NDArray[np.uint64]:
    """Return unsigned integers, as wide as the values, in their order."""
    bits = 8 * pixels.dtype.itemsize
    keys = pixels.view(f"u{pixels.dtype.itemsize}").astype(np.uint64)
    sign = np.uint64(1 << (bits - 1))
    if pixels.dtype.kind == "f":
        negative = (keys & sign) != 0
        return np.where(negative, np.uint64((1 << bits) - 1) ^ keys, keys | sign)
    return keys ^ sign if pixels.dtype.kind == "i" else keys
