"""Labelled sections at another pixel size: images as inference resamples them, labels by a rule of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import UsageError
from isbi_infer.pixels.resample import resample
from isbi_infer.plan.scaling import scaling_between
from isbi_train.config.inputs import LabelKind
from isbi_train.data.labels import cell_mask, check_both_classes

_LARGEST_FACTOR = 16.0


def resampled_shape(shape: tuple[int, int], from_nm: float | None, to_nm: float) -> tuple[int, int] | None:
    """Return the size of a section at another pixel size, by the rule that inference follows.

    Parameters
    ----------
    shape : (int, int)
        (Y, X) of a section, in pixels.
    from_nm : float or None
        Side of its pixels, in nanometres.
    to_nm : float
        Side of a pixel wanted, in nanometres.

    Returns
    -------
    (int, int) or None
        None where both are the same within 1 %, so that inference takes such a section as it is.

    Raises
    ------
    UsageError
        If the section's pixel size is not known, or the sizes are more than 16 times apart.
    """
    if from_nm is None:
        raise UsageError(
            f"cannot resample to {to_nm:g} nm, since the stack does not say its pixel size; give it"
        )
    factor = from_nm / to_nm if to_nm > 0 else 0.0
    if not 1 / _LARGEST_FACTOR <= factor <= _LARGEST_FACTOR:
        raise UsageError(
            f"cannot resample from {from_nm:g} to {to_nm:g} nm; expected at most {_LARGEST_FACTOR:g} times"
        )
    scaling = scaling_between(to_nm, from_nm, from_nm)
    return scaling.inner_shape(shape) if scaling else None


def resample_images(image_ZYX: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Bring sections to another size, each as `isbi_infer` brings a section to a model's pixel size, to the bit.

    Parameters
    ----------
    image_ZYX : ndarray, shape (Z, Y, X)
        Grey values as stored.
    shape : (int, int)
        (Y, X) wanted.

    Returns
    -------
    ndarray of float32, shape (Z, *shape)
        Grey values, not rounded; see `isbi_infer.pixels.resample.resample`.
    """
    out_ZYX = np.empty((len(image_ZYX), *shape), np.float32)
    for section_YX, out_YX in zip(image_ZYX, out_ZYX, strict=True):
        out_YX[...] = resample(section_YX, shape)
    return out_ZYX


def resample_labels(
    label_ZYX: npt.NDArray[Any], labels_are: LabelKind, shape: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Bring labels to another size.

    Labels of two classes are resampled as the images are, as 1 = cell and 0 = membrane: a pixel is cell where more
    than half of what it averages is cell. A membrane thinner than half of a new pixel is lost where it does not fill
    one. Instances are not averaged: a pixel has the id at its centre, and membranes are derived at the new size
    (`isbi_train.data.labels.instance_interiors`), so that cells that touch stay parted by two pixels at any size.

    Parameters
    ----------
    label_ZYX : ndarray, shape (Z, Y, X)
        As stored.
    labels_are : {"cell", "membrane", "instances"}
        What they mean.
    shape : (int, int)
        (Y, X) wanted.

    Returns
    -------
    ndarray of bool, shape (Z, *shape)
        True = cell interior.

    Raises
    ------
    ImageError
        If the labels are not of this kind, or hold only one class, before or after.
    """
    if labels_are == "instances":
        return cell_mask(resample_ids(label_ZYX, shape), "instances")
    cell_ZYX = cell_mask(label_ZYX, labels_are)
    out_ZYX = np.empty((len(cell_ZYX), *shape), np.bool_)
    for section_YX, out_YX in zip(cell_ZYX, out_ZYX, strict=True):
        out_YX[...] = resample(section_YX, shape) > 0.5
    check_both_classes(out_ZYX, labels_are)
    return out_ZYX


def resample_ids(ids_ZYX: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Bring ids to another size: a pixel has the id at its centre.

    Parameters
    ----------
    ids_ZYX : ndarray of integers, shape (Z, Y, X)
        Ids.
    shape : (int, int)
        (Y, X) wanted.

    Returns
    -------
    ndarray of the same dtype, shape (Z, *shape)
    """
    rows, columns = (_centres(size, count) for size, count in zip(ids_ZYX.shape[1:], shape, strict=True))
    found_ZYX: npt.NDArray[Any] = ids_ZYX[:, rows[:, None], columns]
    return found_ZYX


def _centres(size: int, count: int) -> npt.NDArray[np.intp]:
    """Return which of `size` pixels hold the centres of `count` pixels over the same field of view."""
    # In whole numbers: the centre of pixel i lies at (2 i + 1) size / (2 count) of the old pixels.
    return (2 * np.arange(count) + 1) * size // (2 * count)
