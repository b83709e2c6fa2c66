"""Labelled stacks at another pixel size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import UsageError
from isbi_train.data.labelled import LabelledStack

_LARGEST_FACTOR = 16.0


def resample(stack: LabelledStack, to_nm: float) -> LabelledStack:
    """Bring a stack to another pixel size, section by section.

    Both image and labels are smoothed by a Gaussian of (f - 1) / 2 pixels where they shrink f times, and then
    interpolated linearly between pixel centres (`skimage.transform.resize`). Labels are resampled as coverage by
    cell, 0 to 1, and are cell again above one half; a membrane thinner than a new pixel may so be lost.

    Parameters
    ----------
    stack : LabelledStack
        With a pixel size.
    to_nm : float
        The new side of a pixel.

    Returns
    -------
    LabelledStack
        The dtype of the image is kept, integers are rounded. The stack itself where its size is `to_nm` already.

    Raises
    ------
    UsageError
        If the stack has no pixel size, or the sizes are more than 16 times apart.
    """
    if stack.pixel_size_nm is None:
        raise UsageError(
            f"cannot resample to {to_nm:g} nm, since the stack does not say its pixel size; give it"
        )
    if stack.pixel_size_nm == to_nm:
        return stack
    factor = stack.pixel_size_nm / to_nm if to_nm > 0 else 0.0
    if not 1 / _LARGEST_FACTOR <= factor <= _LARGEST_FACTOR:
        raise UsageError(
            f"cannot resample from {stack.pixel_size_nm:g} to {to_nm:g} nm; expected at most {_LARGEST_FACTOR:g} times"
        )
    height, width = (max(1, round(side * factor)) for side in stack.image_ZYX.shape[1:])
    image_ZYX = np.empty((len(stack), height, width), stack.image_ZYX.dtype)
    cell_ZYX = np.empty(image_ZYX.shape, np.bool_)
    for z in range(len(stack)):
        image_ZYX[z] = _as(stack.image_ZYX.dtype, _resized(stack.image_ZYX[z], (height, width)))
        cell_ZYX[z] = _resized(stack.cell_ZYX[z], (height, width)) > 0.5
    return LabelledStack(image_ZYX, cell_ZYX, to_nm)


def _resized(section_YX: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    from skimage.transform import resize

    shrinks = shape[0] < section_YX.shape[0] or shape[1] < section_YX.shape[1]
    resized_YX: npt.NDArray[np.float64] = resize(
        section_YX.astype(np.float64),
        shape,
        order=1,
        mode="reflect",
        anti_aliasing=shrinks,
        preserve_range=True,
    )
    return resized_YX


def _as(dtype: np.dtype[Any], grey_YX: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    return grey_YX.astype(dtype) if dtype.kind == "f" else np.rint(grey_YX).astype(dtype)
