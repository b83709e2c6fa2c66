"""Membranes of one width out of ids, and a band beside them that nobody is asked about.

Annotators draw membranes of different widths. What ids say without doubt is the line along which two cells part, so
membranes are drawn along it, in nanometres::

    id 7   |<-- half -->:<-- half -->|   id 9        : the line halfway between the two cells
    cell   |          membrane       |   cell        also where a gap of 0 lies between them

Where a gap is wider than the membrane, as in myelin and blood vessels, only what is near a cell is membrane, and the
rest is left out of the loss; so are parts of a cell that are thinner than a membrane.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from isbi_train.config import TrainConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.tissue import only_tissue

Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.integer]

_ENCLOSED = 0.9  # of an id's contacts that are with one other id


def learnt_labels(stack: LabelledStack, train: TrainConfig) -> LabelledStack:
    """Return a stack with the labels that the loss compares with.

    Parameters
    ----------
    stack : LabelledStack
        As read.
    train : TrainConfig
        Gives ``membrane_width_nm`` and ``ignore_band_nm``.

    Returns
    -------
    LabelledStack
        Without what shows no tissue; the stack itself where all does, and both are 0 or its pixel size is not known.
    """
    stack = only_tissue(stack)
    size_nm = stack.pixel_size_nm
    from_ids = stack.ids_ZYX is not None and train.membrane_width_nm > 0
    if size_nm is None or not (from_ids or train.ignore_band_nm > 0):
        return stack
    cell_ZYX = stack.cell_ZYX.copy()
    ignored_ZYX = np.zeros_like(cell_ZYX) if stack.ignored_ZYX is None else stack.ignored_ZYX.copy()
    for z, (cell_YX, ignored_YX) in enumerate(zip(cell_ZYX, ignored_ZYX, strict=True)):
        if from_ids:
            assert stack.ids_ZYX is not None
            found_YX, doubtful_YX = membranes_of_ids(stack.ids_ZYX[z], train.membrane_width_nm / size_nm)
            cell_YX[...] = found_YX
            ignored_YX |= doubtful_YX
        if train.ignore_band_nm > 0:
            ignored_YX |= band(cell_YX, train.ignore_band_nm / size_nm)
    return replace(stack, cell_ZYX=cell_ZYX, ignored_ZYX=ignored_ZYX)


def membranes_of_ids(ids_YX: Ids, width_px: float) -> tuple[Mask, Mask]:
    """Draw membranes of one width along the lines halfway between cells.

    Parameters
    ----------
    ids_YX : ndarray of integers, shape (Y, X)
        Ids of cells; 0 = none.
    width_px : float
        Of a membrane, in pixels.

    Returns
    -------
    cell_YX : ndarray of bool, shape (Y, X)
        True = cell interior.
    ignored_YX : ndarray of bool, shape (Y, X)
        True in gaps that are wider than a membrane, farther than half a width from any cell, and in parts of cells that
        are thinner than a membrane, which would be no cell at all.
    """
    if not ids_YX.any():
        return np.zeros(ids_YX.shape, np.bool_), np.ones(ids_YX.shape, np.bool_)
    half = width_px / 2
    gap_YX = ids_YX == 0
    to_cell_YX, nearest = ndimage.distance_transform_edt(gap_YX, return_indices=True)
    grown_YX = ids_YX[tuple(nearest)]
    to_line_YX = distance_to_lines(grown_YX)
    membrane_YX = np.where(gap_YX, to_cell_YX, to_line_YX) <= half
    cell_YX = ~gap_YX & ~membrane_YX
    # What a disc of the membrane's radius, rolled through the interiors, does not reach is too thin to be judged.
    thin_YX = ~gap_YX & ~cell_YX
    if cell_YX.any():
        thin_YX &= ndimage.distance_transform_edt(~cell_YX) > half + 1
    return cell_YX, (gap_YX & ~membrane_YX) | thin_YX


def distance_to_lines(ids_YX: Ids) -> npt.NDArray[np.float32]:
    """Measure how far each pixel is from the line between two ids.

    Parameters
    ----------
    ids_YX : ndarray of integers, shape (Y, X)
        Ids.

    Returns
    -------
    ndarray of float32, shape (Y, X)
        In pixels: 0.5 beside a line, infinite where there is none.
    """
    beside_YX = np.zeros(ids_YX.shape, np.bool_)
    for here, there in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        differ = ids_YX[here] != ids_YX[there]
        beside_YX[here] |= differ
        beside_YX[there] |= differ
    if not beside_YX.any():
        return np.full(ids_YX.shape, np.inf, np.float32)
    distance_YX: npt.NDArray[np.float32] = ndimage.distance_transform_edt(~beside_YX).astype(np.float32)
    return distance_YX + np.float32(0.5)


def band(cell_YX: Mask, width_px: float) -> Mask:
    """Return the pixels of cells that are so near to a membrane that it may be as wide as to hold them.

    Those of membranes stay: where a section is shown small, they are all that is left of a thin one.

    Parameters
    ----------
    cell_YX : ndarray of bool, shape (Y, X)
        True = cell interior.
    width_px : float
        How far from the border, in pixels.

    Returns
    -------
    ndarray of bool, shape (Y, X)
    """
    found_YX: Mask = cell_YX & (distance_to_lines(cell_YX.astype(np.uint8)) <= width_px)
    return found_YX


def merge_enclosed(ids_ZYX: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Give ids that touch nearly nothing but one other id that other one.

    In a volume a cell touches many others; what touches one only lies within it, as a mitochondrion does, or is a
    fragment of it. Outlines of such are no borders of cells.

    Parameters
    ----------
    ids_ZYX : ndarray of uint32, shape (Z, Y, X)
        Ids of an isotropic volume; 0 = none.

    Returns
    -------
    ndarray of uint32, of this shape
    """
    values, dense = np.unique(ids_ZYX, return_inverse=True)
    dense_ZYX = dense.reshape(ids_ZYX.shape)
    count = len(values)
    contacts: dict[int, dict[int, int]] = {}
    for pair, area in zip(*_contacts(dense_ZYX, count), strict=True):
        a, b = divmod(int(pair), count)
        for one, other in ((a, b), (b, a)):
            contacts.setdefault(one, {})[other] = contacts.get(one, {}).get(other, 0) + int(area)
    edges = np.zeros(count, np.int64)  # what a cell that leaves the volume touches there is not known
    for axis in range(3):
        for face in (0, -1):
            edges += np.bincount(dense_ZYX.take(face, axis).ravel(), minlength=count)
    owner = np.arange(count)
    sizes = np.bincount(dense_ZYX.ravel(), minlength=count)
    for one in np.argsort(sizes, kind="stable").tolist():  # the small ones first, into ever larger ones
        touched = contacts.get(one, {})
        if values[one] == 0 or not touched:
            continue
        other = max(touched, key=lambda number: touched[number])
        enclosed = touched[other] >= _ENCLOSED * (edges[one] + sum(touched.values()))
        if values[other] == 0 or sizes[other] <= sizes[one] or not enclosed:
            continue
        owner[one] = other
        del contacts[other][one]
        for third, area in contacts.pop(one).items():  # what it touched, its owner touches now
            if third != other:
                contacts[other][third] = contacts[other].get(third, 0) + area
                contacts[third][other] = contacts[third].get(other, 0) + contacts[third].pop(one)
    for _ in range(count):  # what lies within what lies within a cell
        followed = owner[owner]
        if np.array_equal(followed, owner):
            break
        owner = followed
    merged_ZYX: npt.NDArray[np.uint32] = values[owner][dense_ZYX].astype(np.uint32)
    return merged_ZYX


def _contacts(
    dense_ZYX: npt.NDArray[np.intp], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return pairs of numbers that touch, as ``low * count + high``, and over how many faces of pixels."""
    found: dict[int, int] = {}
    for axis in range(3):
        before = np.moveaxis(dense_ZYX, axis, 0)[:-1]
        after = np.moveaxis(dense_ZYX, axis, 0)[1:]
        differ = before != after
        low, high = np.minimum(before[differ], after[differ]), np.maximum(before[differ], after[differ])
        pairs, areas = np.unique(low.astype(np.int64) * count + high, return_counts=True)
        for pair, area in zip(pairs.tolist(), areas.tolist(), strict=True):
            found[pair] = found.get(pair, 0) + area
    return np.array(list(found), np.int64), np.array(list(found.values()), np.int64)
