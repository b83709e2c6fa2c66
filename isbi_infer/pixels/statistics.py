"""Mean and standard deviation of a section's tissue: without its canvas, unmoved by hot pixels.

::

    section  ->  canvas left out  ->  histogram  ->  fences  ->  mean and standard deviation of what lies within
                                                     5 % and 95 % of the pixels, and twice their distance beyond

The fences are so wide, eight standard deviations of a normal distribution, that a section without hot pixels has none
beyond them. There the statistics are those of all pixels, to the last bit: what a model learnt on them stays true.
Of a little tissue within much resin the quantiles are those of the resin, and the tissue lies beyond. So where there is
nothing but noise within the fences, and more beyond than can be hot, all pixels are looked at together.

All sums run over a histogram of integers, so the order of the pixels cannot matter, and parts of a section can be
added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import ceil, floor, inf, isfinite, log2
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError
from isbi_infer.pixels.canvas import MaskGrid, Section, find_canvas, has_structure
from isbi_infer.pixels.flat import GREATEST_GREY
from isbi_infer.pixels.normalise import intensity_statistics, inverse
from isbi_infer.pixels.offsets import Less, offset_near
from isbi_infer.pixels.windows import Grid, Mask, Window, bands

Blank = Literal["", "constant", "noise"]

_TAIL = 0.05  # of the pixels below the lower quantile, and as many above the upper one
_FENCE = 2.0  # distances of the quantiles; four labelled stacks need 1.02
_HOT = 0.001  # of the pixels, that may be hot or dead; where all others are noise, more are looked at again
_FILLS = 4  # values that programs fill canvas with
_NEAR_NO_DATA = GREATEST_GREY / 2**16  # a standard deviation
_LEAST = 16**2  # pixels of a section that can be called blank
_BINS = 2**16 + 2
_ENOUGH_BINS = 2**10  # between the fences
_PIXELS = 2**16  # at a time, so that temporaries stay in the processor's cache


class SectionError(ImageError):
    """Grey values that are of no use, raised where it is not known whose they are."""

    def of(self, name: str, z: int) -> ImageError:
        """Return the error that users see: of the image of this name, section `z`."""
        return ImageError(f"{name}: section {z}: {self}")


@dataclass(frozen=True, slots=True, eq=False)
class SectionStatistics:
    """What of a section is tissue, and its grey values in the units of the section.

    Attributes
    ----------
    mean, std : float
        Mean and population standard deviation of the tissue's pixels within the fences.
    low, high : float
        The fences.
    fill : float
        The grey value of a tissue pixel that is nearest to the mean.
    tissue : float
        The fraction of the section that is tissue, in [0, 1].
    outliers : int
        The number of tissue pixels beyond the fences.
    blank : {"", "constant", "noise"}
        Why the section shows no tissue at all, where it does not.
    box : (slice, slice)
        The smallest window that holds all tissue; of no pixels where there is none.
    canvas_YX : mask of bool, shape (Y, X), or None
        True where there is no tissue; None where all is. Read by windows.
    offset : float
        What mean, fences and fill lack: they are of grey values less it, see `isbi_infer.pixels.offsets`. 0 but for
        sections that float64 does not hold.
    """

    mean: float
    std: float
    low: float
    high: float
    fill: float
    tissue: float
    outliers: int
    blank: Blank
    box: Window
    canvas_YX: Any = field(repr=False)
    offset: float = 0.0

    @property
    def inverse_std(self) -> float:
        """What differences from the mean are multiplied with; 0 for a constant section."""
        return inverse(self.std)

    def without_mask(self) -> SectionStatistics:
        """Return the figures alone, without what is as large as the section."""
        return replace(self, canvas_YX=None)

    def notes(self, section: int) -> tuple[str, ...]:
        """Return what a reader of the result must know, in sentences.

        Parameters
        ----------
        section : int
            The section's number, as the reader counts.

        Returns
        -------
        tuple of str
            Empty for a section that is all tissue.
        """
        if self.blank == "constant":
            return (f"section {section} is blank",)
        found = []
        if self.blank == "noise":
            found.append(f"section {section} is blank but for noise")
        if self.tissue < 1:
            percent = f"{100 * (1 - self.tissue):.0f}" if self.tissue < 0.995 else "less than 1"
            found.append(f"{percent} % of section {section} is canvas")
        if self.outliers:
            pixels = "pixel was" if self.outliers == 1 else "pixels were"
            found.append(f"{self.outliers} hot or dead {pixels} replaced in section {section}")
        return tuple(found)


def section_statistics(
    section_YX: Grid,
    *,
    nodata: float | None = None,
    mask_YX: Mask | None = None,
    store: Callable[[tuple[int, ...]], MaskGrid] | None = None,
) -> SectionStatistics:
    """Measure the tissue of one section, band by band.

    A section has the same statistics whether it is stored as uint8, uint16 or float, whichever way it is turned, and
    whether it is held whole or read by windows.

    Parameters
    ----------
    section_YX : ndarray or Windowed, shape (Y, X), integer or floating dtype
        Grey values. Those of no tissue may be NaN where `mask_YX` or `nodata` says so; all others are finite.
    nodata : float, optional
        The value that stands for "no data".
    mask_YX : ndarray of bool, shape (Y, X), optional
        True where the section is known to have no tissue.
    store : callable, optional
        Makes the mask of the canvas, of a shape; an array when not given.

    Returns
    -------
    SectionStatistics
        With a mean of 0 and a standard deviation of 0 for a section without tissue.

    Raises
    ------
    SectionError
        If the grey values are so large that they would be taken for no data.
    """
    found = _measured(section_YX, nodata, mask_YX, store)
    offset = offset_near(section_YX.dtype, found.fill)
    if not offset:
        return found
    section_YX = Less(section_YX, offset)
    found = _measured(section_YX, None if nodata is None else nodata - offset, mask_YX, store)
    if found.canvas_YX is None and not found.outliers:  # without the rounding of a histogram
        exact = intensity_statistics(section_YX)
        found = replace(found, mean=exact.mean, std=exact.std)
    return replace(found, offset=offset)


def _measured(
    section_YX: Grid,
    nodata: float | None,
    mask_YX: Mask | None,
    store: Callable[[tuple[int, ...]], MaskGrid] | None,
) -> SectionStatistics:
    """Measure the tissue of a section as it is."""
    where = {} if store is None else {"store": store}
    canvas_YX = find_canvas(section_YX, nodata=nodata, mask_YX=mask_YX, **where)
    count, box = _extent(section_YX.shape, canvas_YX)
    if count == 0:
        _check_not_too_large(section_YX, nodata, mask_YX)
        return SectionStatistics(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, "constant", box, canvas_YX)
    histogram = _histogram(section_YX, canvas_YX)
    low, high = histogram.fences()
    inner = histogram.between(low, high)
    mean, std, fill = inner.moments()
    if std == 0 or std > _NEAR_NO_DATA:
        _check_not_too_large(section_YX, nodata, mask_YX)
    outliers = count - inner.count
    out_YX = _Outside(section_YX, low, high, canvas_YX) if outliers else canvas_YX
    blank: Blank = ""
    if std == 0 and section_YX.size >= _LEAST:  # fewer pixels may be of one grey value by chance
        blank = "constant"
    elif std > 0 and not has_structure(section_YX, out_YX, fill, std):
        blank = "noise"
    if blank == "noise" and outliers > _HOT * count and (whole := _whole(section_YX, canvas_YX)):
        (low, high), (mean, std, fill) = whole
        outliers, blank = 0, ""
    tissue = count / section_YX.size
    return SectionStatistics(mean, std, low, high, fill, tissue, outliers, blank, box, canvas_YX)


def _whole(
    section_YX: Grid, canvas_YX: MaskGrid | None
) -> tuple[tuple[float, float], tuple[float, float, float]] | None:
    """Return range and moments of all tissue, hot pixels too, if it shows something; None if it is noise."""
    low, high = _range(section_YX, canvas_YX, -inf, inf)
    moments = _counted_whole(section_YX, canvas_YX, low, high).moments()
    _, std, fill = moments
    return ((low, high), moments) if has_structure(section_YX, canvas_YX, fill, std) else None


def _check_not_too_large(section_YX: Grid, nodata: float | None, mask_YX: Mask | None) -> None:
    """Raise SectionError if what stands for no data, being so large, varies as grey values do."""
    if section_YX.dtype.kind != "f" or section_YX.dtype.itemsize == 2:
        return
    found: set[float] = set()
    for rows in bands(0, *section_YX.shape):
        beyond_YX = np.abs(section_YX[rows]) >= GREATEST_GREY
        if mask_YX is not None:
            beyond_YX &= ~mask_YX[rows]
        if beyond_YX.any():
            found |= set(np.unique(section_YX[rows][beyond_YX])[: _FILLS + 2].tolist())
    if nodata is not None:
        found.discard(float(section_YX.dtype.type(nodata)))
    if len(found) > _FILLS:
        raise SectionError(
            f"has grey values of {max(map(abs, found)):.0e}, and floats beyond {GREATEST_GREY:.0e} stand for no data; "
            "divide them by a constant and write it again"
        )


class _Outside:
    """Pixels beyond the fences or on the canvas, looked for where they are asked for."""

    def __init__(self, section_YX: Grid, low: float, high: float, canvas_YX: MaskGrid | None) -> None:
        self._section_YX, self._low, self._high, self._canvas_YX = section_YX, low, high, canvas_YX

    def __getitem__(self, window: slice | Window) -> Mask:
        section_YX = self._section_YX[window]
        out_YX: Mask = (section_YX < self._low) | (section_YX > self._high)
        return out_YX if self._canvas_YX is None else out_YX | self._canvas_YX[window]


def _extent(shape: tuple[int, ...], canvas_YX: MaskGrid | None) -> tuple[int, Window]:
    """Count the pixels of tissue, and find the smallest window that holds them."""
    height, width = shape
    if canvas_YX is None:
        return height * width, (slice(0, height), slice(0, width))
    count = 0
    in_row, in_column = np.zeros(height, np.bool_), np.zeros(width, np.bool_)
    for rows in bands(0, height, width):
        tissue_YX = ~canvas_YX[rows]
        count += int(np.count_nonzero(tissue_YX))
        in_row[rows] = tissue_YX.any(axis=1)
        in_column |= tissue_YX.any(axis=0)
    if not count:
        return 0, (slice(0, 0), slice(0, 0))
    y, x = (np.flatnonzero(found) for found in (in_row, in_column))
    return count, (slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1))


@dataclass(frozen=True, slots=True)
class _Histogram:
    """Counts of pixels per grey value ``(first + i) * width``, `width` a power of two; and of those outside."""

    first: int
    width: float
    counts: npt.NDArray[np.int64]
    below: int = 0
    above: int = 0

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def fences(self) -> tuple[float, float]:
        """Return the lowest and highest grey value of tissue; infinite where the quantiles coincide."""
        cumulative = self.below + np.cumsum(self.counts)
        skipped = int(_TAIL * (int(cumulative[-1]) + self.above))
        lower = int(np.searchsorted(cumulative, skipped, "right"))
        upper = int(np.searchsorted(cumulative, int(cumulative[-1]) + self.above - skipped, "left"))
        lower, upper = min(lower, len(self.counts) - 1), min(upper, len(self.counts) - 1)
        if lower == upper:
            return -inf, inf
        reach = _FENCE * (upper - lower)
        return (self.first + lower - reach) * self.width, (self.first + upper + reach) * self.width

    def between(self, low: float, high: float) -> _Histogram:
        start, stop = 0, len(self.counts)
        if isfinite(low):
            start = min(max(ceil(low / self.width) - self.first, 0), stop)
            stop = min(max(floor(high / self.width) + 1 - self.first, start), stop)
        return _Histogram(self.first + start, self.width, self.counts[start:stop])

    def moments(self) -> tuple[float, float, float]:
        """Return mean, standard deviation and the grey value nearest to the mean, each rounded once."""
        n = self.count
        present = np.flatnonzero(self.counts)
        counts, middle = self.counts[present], int(present[len(present) // 2])
        place = present - middle
        total = int(counts @ place)
        squared = place * place
        squares = (int(counts @ (squared >> 16)) << 16) + int(counts @ (squared & 0xFFFF))  # none overflows
        variance = (n * squares - total * total) / (n * n)
        nearest = int(present[np.argmin(np.abs(place - total / n))])
        return (
            ((self.first + middle) * n + total) / n * self.width,
            float(np.sqrt(variance)) * self.width,
            (self.first + nearest) * self.width,
        )


def _histogram(section_YX: Grid, canvas_YX: MaskGrid | None) -> _Histogram:
    """Count the tissue's grey values, those between the fences in at least 1024 steps where there are as many."""
    if _is_counted(section_YX):
        return _counted_whole(section_YX, canvas_YX, -inf, inf)
    low, high = _range(section_YX, canvas_YX, -inf, inf)
    while True:
        histogram = _counted(section_YX, canvas_YX, low, high)
        fence_low, fence_high = histogram.fences()
        if not isfinite(fence_low) and np.count_nonzero(histogram.counts) > 1:
            # All quantiles fall into one step: look at that step alone.
            peak = (histogram.first + int(np.argmax(histogram.counts))) * histogram.width
            fence_low = fence_high = peak
        elif not isfinite(fence_low) or (fence_high - fence_low) / histogram.width >= _ENOUGH_BINS:
            return histogram
        margin = histogram.width
        closer = _range(section_YX, canvas_YX, fence_low - margin, fence_high + margin)
        if closer == (low, high):
            return histogram
        low, high = closer


def _is_counted(section_YX: Grid) -> bool:
    """Return whether there are so few grey values that each has a count of its own."""
    return section_YX.dtype.kind in "iu" and section_YX.dtype.itemsize <= 2


def _counted_whole(section_YX: Grid, canvas_YX: MaskGrid | None, low: float, high: float) -> _Histogram:
    """Count all grey values; `low` and `high` are the least and the greatest."""
    if _is_counted(section_YX):
        limits = np.iinfo(section_YX.dtype)
        counts = np.zeros(limits.max - limits.min + 1, np.int64)
        for pixels in _tissue_blocks(section_YX, canvas_YX):
            shifted = pixels if limits.min == 0 else pixels.astype(np.int32) - limits.min
            counts += np.bincount(shifted, minlength=len(counts))
        return _Histogram(limits.min, 1.0, counts)
    return _counted(section_YX, canvas_YX, low, high)


def _counted(section_YX: Grid, canvas_YX: MaskGrid | None, low: float, high: float) -> _Histogram:
    """Count grey values from `low` to `high` in steps of the finest power of two that 65536 bins allow."""
    spread = max(high - low, float(np.finfo(np.float64).tiny) * 2.0**20)
    width = max(2.0 ** ceil(log2(spread / (_BINS - 2))), float(np.spacing(max(abs(low), abs(high)))))
    first = floor(low / width)
    bins = ceil(high / width) - first + 1
    counts = np.zeros(bins + 2, np.int64)
    for pixels in _tissue_blocks(section_YX, canvas_YX):
        place = np.multiply(pixels, 1 / width, dtype=np.float64)
        np.rint(place, out=place)
        place -= first - 1
        counts += np.bincount(np.clip(place, 0, bins + 1, out=place).astype(np.intp), minlength=bins + 2)
    return _Histogram(first, width, counts[1:-1], int(counts[0]), int(counts[-1]))


def _range(section_YX: Grid, canvas_YX: MaskGrid | None, low: float, high: float) -> tuple[float, float]:
    """Return the least and the greatest grey value of tissue within limits."""
    least, greatest = inf, -inf
    for pixels in _tissue_blocks(section_YX, canvas_YX):
        inside = pixels if low == -inf else pixels[(pixels >= low) & (pixels <= high)]
        if inside.size:
            least, greatest = min(least, float(inside.min())), max(greatest, float(inside.max()))
    return least, greatest


def _tissue_blocks(section_YX: Grid, canvas_YX: MaskGrid | None) -> Iterator[Section]:
    rows = max(1, _PIXELS // max(1, section_YX.shape[1]))
    for start in range(0, section_YX.shape[0], rows):
        block_YX = section_YX[start : start + rows]
        yield block_YX.ravel() if canvas_YX is None else block_YX[~canvas_YX[start : start + rows]]
