"""The synthetic sections that exports are measured on, drawn once."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from isbi_infer.sample import synthetic_stack

Image = npt.NDArray[np.uint8]


@cache
def synthetic_sections(sections: int, side: int = 512) -> tuple[Image, Image]:
    """Return square synthetic sections and their labels; not to be written to.

    Parameters
    ----------
    sections, side : int
        How many, of how many pixels.

    Returns
    -------
    (ndarray of uint8, ndarray of uint8)
        (Z, Y, X) each; labels above 0 are cell.
    """
    image_ZYX, label_ZYX = synthetic_stack(sections, side, side)
    for array in (image_ZYX, label_ZYX):
        array.setflags(write=False)
    return image_ZYX, label_ZYX
