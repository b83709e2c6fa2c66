"""The picture on a model's page: the synthetic sample, and the membranes that the model finds in it."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from isbi_infer.demo import OUTLINE_RGB

SIDE = 256


def cover_png(section_YX: npt.NDArray[np.uint8], probability_YX: npt.NDArray[np.float32]) -> bytes:
    """Draw a section, and beside it the same section with its membranes coloured.

    Parameters
    ----------
    section_YX : ndarray of uint8, shape (Y, X), both at least `SIDE`
        Grey values; the middle is shown.
    probability_YX : ndarray of float32, same shape
        1 = cell interior, 0 = membrane.

    Returns
    -------
    bytes
        A PNG of 512x256 pixels: bioimage.io asks for 2:1 (or 1:1) and less than 500 KB.
    """
    y, x = ((size - SIDE) // 2 for size in section_YX.shape)
    middle = np.s_[y : y + SIDE, x : x + SIDE]
    plain_YXC = np.repeat(section_YX[middle][..., None], 3, axis=2)
    coloured_YXC = plain_YXC.copy()
    coloured_YXC[probability_YX[middle] < 0.5] = OUTLINE_RGB
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate((plain_YXC, coloured_YXC), axis=1)).save(buffer, format="PNG")
    return buffer.getvalue()
