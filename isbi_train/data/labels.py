"""Labels as people keep them, brought to one form: True = cell interior, False = membrane.

Errors raised here do not name the file; whoever read the labels does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_train.config.inputs import LABEL_KINDS, LabelKind

_SHOWN = 5


def cell_mask(label_ZYX: npt.NDArray[Any], labels_are: LabelKind = "cell") -> npt.NDArray[np.bool_]:
    """Distinguish cell interior from membrane.

    Parameters
    ----------
    label_ZYX : ndarray of integer, floating or bool dtype, shape (Z, Y, X)
        As stored.
    labels_are : {"cell", "membrane", "instances"}
        What they mean. "cell" and "membrane": zero and one value above it, which marks what is named (255/0, 1/0,
        bool). "instances": integers, 0 = background or membrane; see `instance_interiors`.

    Returns
    -------
    ndarray of bool, shape (Z, Y, X)
        True = cell interior.

    Raises
    ------
    ImageError
        If the labels are not of this kind, hold one class only, or most of them are membrane, which means that
        they are inverted.
    UsageError
        If the kind is unknown.
    """
    if labels_are not in LABEL_KINDS:
        raise UsageError(f"labels are {labels_are!r}; expected {', '.join(LABEL_KINDS)}")
    if label_ZYX.dtype.kind not in "biuf":
        raise ImageError(f"labels are {label_ZYX.dtype}; expected numbers")
    if labels_are == "instances":
        cell_ZYX = instance_interiors(label_ZYX)
    else:
        check_two_classes(label_ZYX, labels_are)
        cell_ZYX = (label_ZYX != 0) if labels_are == "cell" else (label_ZYX == 0)
    check_both_classes(cell_ZYX, labels_are)
    return cell_ZYX


def check_both_classes(cell_ZYX: npt.NDArray[np.bool_], labels_are: LabelKind) -> None:
    """Raise ImageError where labels hold one class only, or most of them are membrane.

    Parameters
    ----------
    cell_ZYX : ndarray of bool, shape (Z, Y, X)
        True = cell interior.
    labels_are : {"cell", "membrane", "instances"}
        What they were made of, for the message.
    """
    membrane = 1 - np.count_nonzero(cell_ZYX) / cell_ZYX.size
    if membrane in (0, 1):
        raise ImageError(
            f"labels hold no {'cell' if membrane else 'membrane'} at all; expected both, since nothing is learnt of one"
        )
    if membrane > 0.5:
        raise ImageError(_inverted(membrane, labels_are))


def check_annotated(label_ZYX: npt.NDArray[Any]) -> None:
    """Raise ImageError where some sections, but not all, hold one value throughout: nobody annotated them.

    Parameters
    ----------
    label_ZYX : ndarray, shape (Z, Y, X)
        As stored, of any kind.
    """
    plain = [str(z) for z, label_YX in enumerate(label_ZYX) if (label_YX == label_YX[0, 0]).all()]
    if plain and len(plain) < len(label_ZYX):
        raise ImageError(
            f"labels hold a single value in section {', '.join(plain)} (from 0), which looks unlabelled; expected cell "
            "and membrane in each; take such sections out of images and labels"
        )


def check_scored_labels(label_ZYX: npt.NDArray[Any]) -> None:
    """Raise ImageError where labels to score against hold more than cell and membrane.

    Parameters
    ----------
    label_ZYX : ndarray of integer, floating or bool dtype
        As stored, of any shape; a single value throughout is left to the scores.
    """
    values = np.unique(label_ZYX)
    if len(values) > 1:
        check_two_classes(values)


def instance_interiors(label_ZYX: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Derive membranes from instance ids.

    A pixel is membrane if its id is 0, or if one of its 4 neighbours in the section has another id that is not 0.
    So cells that touch are parted by two pixels, and membranes that are drawn already stay as they are.

    Parameters
    ----------
    label_ZYX : ndarray of integers, shape (Z, Y, X)
        Ids of cells; 0 = background or membrane.

    Returns
    -------
    ndarray of bool, shape (Z, Y, X)
        True = cell interior.

    Raises
    ------
    ImageError
        If these are no ids, or of a single cell.
    """
    if label_ZYX.dtype.kind not in "iu":
        raise ImageError(
            f"instance labels are {label_ZYX.dtype}; expected integers, 0 = background and an id for each cell"
        )
    if label_ZYX.min() < 0:
        raise ImageError(
            f"instance labels go down to {label_ZYX.min()}; expected ids from 1 and 0 = background"
        )
    largest = label_ZYX.max()
    if not ((label_ZYX > 0) & (label_ZYX < largest)).any():
        raise ImageError(
            f"instance labels hold the single id {largest}; expected one for each cell; "
            "labels of two values are of the kind cell or membrane"
        )
    cell_ZYX = label_ZYX > 0
    for axis in (1, 2):
        here = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        meet = (label_ZYX[here] != label_ZYX[there]) & (label_ZYX[here] > 0) & (label_ZYX[there] > 0)
        cell_ZYX[here] &= ~meet
        cell_ZYX[there] &= ~meet
    return cell_ZYX


def check_two_classes(label_ZYX: npt.NDArray[Any], labels_are: str = "cell") -> None:
    """Raise ImageError where labels hold other values than 0 and one above it, with the values found.

    Parameters
    ----------
    label_ZYX : ndarray of integer, floating or bool dtype
        As stored.
    labels_are : {"cell", "membrane"}
        What the value above 0 marks, for the message.
    """
    values = np.unique(label_ZYX)
    if len(values) <= 2 and values[0] == 0:
        return
    shown = ", ".join(f"{value:g}" for value in values[:_SHOWN].astype(np.float64))
    more = f", ... ({len(values)} values)" if len(values) > _SHOWN else ""
    remedy = "the lowest is not 0"
    if len(values) > 2:
        remedy = (
            "ids of cells are labels of the kind instances; bring a mask that was interpolated or stored as JPEG "
            "back to two values"
        )
    raise ImageError(
        f"labels hold {shown}{more}; expected 0 and one value above it, which marks {labels_are}; {remedy}"
    )


def _inverted(membrane: float, labels_are: str) -> str:
    if labels_are == "instances":
        return f"{membrane:.0%} of the pixels are membrane (id 0 or a border); expected less than half"
    meaning = "255 = cell and 0 = membrane" if labels_are == "cell" else "255 = membrane and 0 = cell"
    return f"{membrane:.0%} of the pixels are membrane; labels must be {meaning}, so this looks inverted"
