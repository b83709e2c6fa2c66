"""Labelled sections at another pixel size: images as inference resamples them, labels by a rule of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import UsageError
from isbi_infer.pixels.resample import resample
from isbi_infer.plan.scaling import scaling_between

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


def resample_cells(cell_ZYX: npt.NDArray[np.bool_], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Bring labels of two classes to another size.

    They are resampled as the images are, as 1 = cell and 0 = membrane: a pixel is cell where more than half of what it
    averages is cell. A membrane thinner than half of a new pixel is lost where it does not fill one.

    Parameters
    ----------
    cell_ZYX : ndarray of bool, shape (Z, Y, X)
        True = cell interior.
    shape : (int, int)
        (Y, X) wanted.

    Returns
    -------
    ndarray of bool, shape (Z, *shape)
        True = cell interior.
    """
    return np.stack([resample(cell_YX, shape) > 0.5 for cell_YX in cell_ZYX])


def resample_ignored(ignored_ZYX: npt.NDArray[np.bool_], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Bring a mask of ignored pixels to another size: a pixel is ignored if any that it averages is.

    Parameters
    ----------
    ignored_ZYX : ndarray of bool, shape (Z, Y, X)
        True where nobody knows.
    shape : (int, int)
        (Y, X) wanted.

    Returns
    -------
    ndarray of bool, shape (Z, *shape)
    """
    return np.stack([resample(ignored_YX, shape) > 0 for ignored_YX in ignored_ZYX])


def resample_ids(ids_ZYX: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Bring ids to another size: they are not averaged, a pixel has the id at its centre.

    Membranes are derived from them at the new size (`isbi_train.data.labels.instance_interiors`), so that cells that
    touch stay parted by two pixels at any size.

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
