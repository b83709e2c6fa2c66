"""What callers hand over as an image: greyscale sections, or an error that names what it is instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, IsbiError
from isbi_infer.terminal import one_line

_FEW = 4  # samples of a pixel; more pixels along Y and X than that, and a last axis of 3 or 4 is no X


def greyscale(image: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return what is a greyscale section or stack.

    Parameters
    ----------
    image : array_like
        As a caller has it, also a torch tensor; masked pixels stay masked.

    Returns
    -------
    ndarray or masked array of integer or floating dtype, shape (Y, X) or (Z, Y, X)
        All finite, but for what is masked.

    Raises
    ------
    ImageError
        If it is something else; the message names what it looks like.
    """
    if isinstance(image, str | Path):
        raise ImageError(f"{image}: expected an array; use segment_file for a path")
    array = image if isinstance(image, np.ma.MaskedArray) else _array(image)
    channels = array.shape[-1:] in ((3,), (4,))
    if (array.ndim == 4 and channels) or (array.ndim == 3 and channels and min(array.shape[:2]) > _FEW):
        axes = "(Y, X, C)" if array.ndim == 3 else "(Z, Y, X, C)"
        raise ImageError(
            f"shape {array.shape} looks like {axes} with {array.shape[-1]} colour samples a pixel; expected greyscale "
            "(Y, X) or (Z, Y, X): take one channel or the mean of them"
        )
    if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "iuf":
        raise ImageError(
            f"expected a greyscale section (Y, X) or stack (Z, Y, X) of integers or floats, "
            f"found shape {array.shape} of {array.dtype}"
        )
    if array.dtype.kind == "f":
        invalid = int(np.count_nonzero(~np.isfinite(array) & ~np.ma.getmaskarray(array)))
        if invalid:
            raise ImageError(
                f"{invalid} pixels are NaN or infinite; mask them first (numpy.ma.masked_invalid), and they count as "
                "canvas"
            )
    return array


def own_section(z: int, section: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return one of many sections in memory of its own, since whoever yields them may fill theirs again.

    Parameters
    ----------
    z : int
        Its number, for messages.
    section : array_like
        As a caller has it; see `greyscale`.

    Returns
    -------
    ndarray or masked array of integer or floating dtype, shape (Y, X)
        A copy, with a copy of its mask.

    Raises
    ------
    ImageError
        If it is something else; the message names the section and what it looks like.
    """
    try:
        array = greyscale(section)
    except ImageError as error:
        raise ImageError(f"section {z}: {error}") from error
    if array.ndim != 2:
        raise ImageError(f"section {z}: expected two axes (Y, X), found shape {array.shape}")
    return array.copy()


def _array(image: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return what becomes of anything else as an array."""
    try:
        if hasattr(image, "detach"):  # a torch tensor, perhaps with gradients, perhaps on a GPU
            image = image.detach().cpu()
        return np.asarray(image)
    except (IsbiError, MemoryError):
        raise
    except Exception as error:  # anything may be raised here; StopIteration would end a stream
        raise ImageError(
            f"expected a greyscale section (Y, X) or stack (Z, Y, X), found {type(image).__name__} of which no array "
            f"can be made ({one_line(error)})"
        ) from error
