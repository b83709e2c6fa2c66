"""What of labelled sections is tissue: nothing is learnt, or calibrated, where a network is never asked.

And by what a section of tissue is known again in another stack.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.statistics import section_statistics
from isbi_train.data.labelled import LabelledStack


def only_tissue(stack: LabelledStack) -> LabelledStack:
    """Leave out of a stack's labels what shows no tissue, by the rule that inference follows.

    There a result is membrane whatever a network says, so that labels which call it cell are no fault of the network.

    Parameters
    ----------
    stack : LabelledStack
        As read, or resampled.

    Returns
    -------
    LabelledStack
        With canvas and blank sections ignored, and membrane there; the stack itself where all is tissue.
    """
    found = [_without_tissue(section_YX) for section_YX in stack.image_ZYX]
    if all(part is None for part in found):
        return stack
    ignored_ZYX = np.zeros_like(stack.cell_ZYX) if stack.ignored_ZYX is None else stack.ignored_ZYX.copy()
    for ignored_YX, part in zip(ignored_ZYX, found, strict=True):
        if part is not None:
            ignored_YX |= part
    return replace(stack, ignored_ZYX=ignored_ZYX, cell_ZYX=stack.cell_ZYX & ~ignored_ZYX)


def section_digests(image_ZYX: npt.NDArray[np.generic]) -> list[str]:
    """Hash the grey values of each section, whatever numbers they are stored as.

    Parameters
    ----------
    image_ZYX : ndarray, shape (Z, Y, X)
        Grey values.

    Returns
    -------
    list of str
        Equal of equal sections; empty of a section of one grey value, which shows nothing.
    """
    return [_digest(section_YX) for section_YX in image_ZYX]


def _digest(section_YX: npt.NDArray[np.generic]) -> str:
    if (section_YX == section_YX[0, 0]).all():
        return ""
    found = hashlib.blake2b(str(section_YX.shape).encode(), digest_size=32)
    found.update(np.ascontiguousarray(_in_smallest_type(section_YX)).data)
    return found.hexdigest()


def _in_smallest_type(section_YX: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return whole numbers that a byte or two hold as such, and anything else as floats: equal ones in one type."""
    if section_YX.dtype == np.uint8:
        return section_YX
    least, greatest = section_YX.min(), section_YX.max()
    for kind in (np.uint8, np.uint16):
        if least >= 0 and greatest <= np.iinfo(kind).max:
            whole_YX = section_YX.astype(kind)
            if section_YX.dtype.kind != "f" or (whole_YX == section_YX).all():
                return whole_YX
    return section_YX.astype(np.float64)


def shows_tissue(section_YX: npt.NDArray[np.generic]) -> bool:
    """Return whether a section is not blank, by the rule that inference follows."""
    return bool(np.isfinite(section_YX).all()) and not section_statistics(section_YX).blank


def _without_tissue(section_YX: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_] | None:
    """Return where a section shows no tissue; None where all of it does."""
    found = section_statistics(section_YX)
    if found.blank:
        return np.ones(section_YX.shape, np.bool_)
    if found.canvas_YX is None:
        return None
    canvas_YX: npt.NDArray[np.bool_] = np.asarray(found.canvas_YX[slice(None), slice(None)])
    return canvas_YX
