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
    shape = str(section_YX.shape).encode()
    return hashlib.blake2b(section_YX.astype(np.float64).tobytes() + shape, digest_size=32).hexdigest()


def _without_tissue(section_YX: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_] | None:
    """Return where a section shows no tissue; None where all of it does."""
    found = section_statistics(section_YX)
    if found.blank:
        return np.ones(section_YX.shape, np.bool_)
    if found.canvas_YX is None:
        return None
    canvas_YX: npt.NDArray[np.bool_] = np.asarray(found.canvas_YX[slice(None), slice(None)])
    return canvas_YX
