"""Grey values that are too large to be told apart in float64: what is subtracted from them first.

float64 holds integers up to 2^53; beyond, neighbouring grey values fall together. Integers of 64 bits and long doubles
reach farther. So where the tissue of a section lies that high, an offset is subtracted in the section's own dtype,
and all figures of the section are of what is left.
"""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.flat import GREATEST_GREY
from isbi_infer.pixels.windows import Grid, Window

_HIGH = 2.0**40  # float64 holds a mean below it to 1/4096 of a grey value
_STEP = 2.0**16  # of offsets: grey values of 16 bits plus a multiple of it become themselves, to the last bit


def offset_near(dtype: np.dtype[Any], value: float) -> float:
    """Return what is to be subtracted from grey values near one of them; 0 where float64 holds them well.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the grey values.
    value : float
        One of them, as float64 has it.
    """
    held = dtype.itemsize < 8 or (dtype.kind == "f" and dtype.itemsize == 8)
    if held or not _HIGH <= abs(value) < GREATEST_GREY:
        return 0.0
    most = GREATEST_GREY if dtype.kind == "f" else float(np.iinfo(dtype).max) - _STEP
    return min(floor(value / _STEP) * _STEP, most)


def less(pixels: npt.NDArray[Any], offset: float) -> npt.NDArray[Any]:
    """Return grey values less an offset of `offset_near`, as float64; the grey values themselves where it is 0."""
    if not offset:
        return pixels
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # of what is too large for a grey value, too
            return np.asarray(pixels - pixels.dtype.type(offset), np.float64)
    middle = pixels.dtype.type(int(offset))
    # Differences may be too large for the dtype; as unsigned integers they are right.
    above, below = (part.view(np.uint64).astype(np.float64) for part in (pixels - middle, middle - pixels))
    return np.asarray(np.where(pixels < middle, -below, above))


class Less:
    """A section less an offset, read as the section is."""

    def __init__(self, section_YX: Grid, offset: float) -> None:
        self._section_YX, self._offset = section_YX, offset
        self.shape, self.size, self.dtype = section_YX.shape, section_YX.size, np.dtype(np.float64)

    def __getitem__(self, window: slice | Window) -> npt.NDArray[Any]:
        """Return rows, or a window of rows and columns."""
        return less(self._section_YX[window], self._offset)
