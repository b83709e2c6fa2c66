"""Intensity statistics of a section, and the normalisation built on them.

A section is normalised with its *own* mean and standard deviation, never a tile's and never a stack's:
contrast drifts from section to section, and a tile must see exactly what the whole section would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.offsets import Less, less, offset_near
from isbi_infer.pixels.windows import Grid, MaskOfRows, bands

_PIXELS = 2**16  # at a time, so that temporaries stay in the processor's cache
_PLAIN_OFFSET = 1024  # standard deviations; float32 holds grey values up to there to 1e-4 of one
_SMALL_SQUARE, _LARGE = 2.0**-900, 2.0**900
_LARGEST_INVERSE = 1 / float(np.finfo(np.float32).tiny)


class Statistics(Protocol):
    """Mean and standard deviation of a section, however they were found."""

    @property
    def mean(self) -> float:
        """In the units of the section."""

    @property
    def std(self) -> float:
        """Standard deviation, in the units of the section."""

    @property
    def inverse_std(self) -> float:
        """Of the standard deviation, or 0 for a constant section."""

    @property
    def offset(self) -> float:
        """What the mean lacks, and is subtracted from grey values first; see `isbi_infer.pixels.offsets`."""


def inverse(std: float) -> float:
    """Return what differences from the mean are multiplied with; 0 for a constant section."""
    return 0.0 if std < np.finfo(np.float64).tiny else 1.0 / std


@dataclass(frozen=True, slots=True)
class IntensityStatistics:
    """Mean and standard deviation of one section's grey values, in the units of the section.

    The mean is that of grey values less the offset, which is 0 unless float64 would not hold them.
    """

    mean: float
    std: float
    offset: float = 0.0

    @property
    def inverse_std(self) -> float:
        """What differences from the mean are multiplied with; 0 for a constant section."""
        return inverse(self.std)


def intensity_statistics(
    section_YX: npt.NDArray[Any] | Grid, tissue: MaskOfRows | None = None
) -> IntensityStatistics:
    """Measure one section.

    Integers of up to 16 bits are summed exactly, everything else in two float64 passes, so a stack gives the
    same statistics whether it is stored as uint8, uint16 or float32.

    Parameters
    ----------
    section_YX : ndarray or Windowed, shape (Y, X), integer or floating dtype
        Grey values, all finite; read once for integers of up to 16 bits and twice for others, or three times where they
        are less an offset.
    tissue : callable, optional
        Returns rows of a mask of what counts.

    Returns
    -------
    IntensityStatistics
        Population mean and standard deviation; ``std`` is 0 for a constant section.
    """
    blocks = partial(_row_blocks, section_YX) if tissue is None else partial(_chosen, section_YX, tissue)
    n = section_YX.size if tissue is None else sum(block.size for block in blocks())
    if section_YX.dtype.kind in "iu" and section_YX.dtype.itemsize <= 2:
        total = squares = 0
        for block in blocks():
            total += int(block.sum(dtype=np.int64))
            squares += int(np.square(block, dtype=np.int64).sum())
        variance = (n * squares - total * total) / (n * n)
        return IntensityStatistics(total / n, float(np.sqrt(variance)))
    mean = float(sum(block.sum(dtype=np.float64) for block in blocks())) / n
    if offset := offset_near(section_YX.dtype, mean):
        return replace(intensity_statistics(Less(section_YX, offset), tissue), offset=offset)
    squares_64 = float(sum(np.square(block.astype(np.float64) - mean).sum() for block in blocks()))
    if squares_64 < n * _SMALL_SQUARE:  # where squares lose digits, or all of them
        squares_64 = float(sum(np.square((block - np.float64(mean)) * _LARGE).sum() for block in blocks()))
        return IntensityStatistics(mean, float(np.sqrt(squares_64 / n)) / _LARGE)
    return IntensityStatistics(mean, float(np.sqrt(squares_64 / n)))


def normalise(
    pixels: npt.NDArray[np.generic],
    statistics: Statistics,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Bring grey values to zero mean and unit variance.

    Parameters
    ----------
    pixels : ndarray, any shape, integer or floating dtype
        A section or any part of one.
    statistics : IntensityStatistics or SectionStatistics
        Those of the *whole* section. Where the mean is more than 1024 standard deviations from 0 it is subtracted in
        float64, since float32 would lose what is left; so it is where float32 does not hold them.
    out : ndarray of float32, optional
        Where the result goes.

    Returns
    -------
    ndarray of float32
        Same shape; all zero for a constant section.
    """
    out = np.empty(pixels.shape, np.float32) if out is None else out
    pixels = less(pixels, statistics.offset)
    if (
        abs(statistics.mean) * statistics.inverse_std > _PLAIN_OFFSET
        or statistics.inverse_std > _LARGEST_INVERSE
    ):
        for raw, part in zip(_row_blocks(pixels), _row_blocks(out), strict=True):
            part[...] = (raw - np.float64(statistics.mean)) * statistics.inverse_std
        return out
    mean, inverse_std = np.float32(statistics.mean), np.float32(statistics.inverse_std)
    for raw, part in zip(_row_blocks(pixels), _row_blocks(out), strict=True):
        part[...] = raw
        part -= mean
        part *= inverse_std
    return out


def _chosen(section_YX: Grid, tissue: MaskOfRows) -> Iterator[npt.NDArray[Any]]:
    for rows in bands(0, section_YX.shape[0], section_YX.shape[1]):
        yield section_YX[rows][tissue(rows)]


def _row_blocks(array: npt.NDArray[Any] | Grid) -> Iterator[npt.NDArray[Any]]:
    if len(array.shape) < 2:
        yield array[:]
        return
    rows = max(1, _PIXELS * array.shape[0] // max(1, array.size))
    for start in range(0, array.shape[0], rows):
        yield array[start : start + rows]
