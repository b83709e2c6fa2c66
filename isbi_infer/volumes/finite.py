"""Whether the grey values of a section are numbers, and which of them stands for none."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError


def check_finite(section_YX: npt.NDArray[Any], nodata: float | None) -> None:
    """Raise ImageError, with their count, where grey values are NaN or infinite.

    Parameters
    ----------
    section_YX : ndarray
        A section, or any part of one.
    nodata : float or None
        The value that stands for "no data": NaN allows NaN.
    """
    if section_YX.dtype.kind != "f":
        return
    finite = int(np.count_nonzero(np.isfinite(section_YX)))
    if nodata is not None and np.isnan(nodata):
        finite += int(np.count_nonzero(np.isnan(section_YX)))
    if finite < section_YX.size:
        nan = int(np.count_nonzero(np.isnan(section_YX)))
        raise ImageError(
            f"{nan} NaN and {section_YX.size - finite - nan} infinite pixels; expected finite numbers; "
            "replace them, for instance by the section's mean"
        )


def same_nodata(one: float | None, other: float | None) -> bool:
    """Return whether two stacks have one value that stands for "no data", NaN among them, or both none."""
    if one is None or other is None:
        return one is other
    return one == other or bool(np.isnan(one) and np.isnan(other))
