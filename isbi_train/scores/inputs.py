"""A proposal and its labels, checked once before anything is scored."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from isbi_infer.errors import DependencyError, ImageError, ResourceError
from isbi_infer.headroom import check_headroom, is_lack_of_memory
from isbi_infer.terminal import one_line
from isbi_train.data.labels import MOST_MEMBRANE, pixels_within

# Bytes. numba's library has 170 MiB, and stands still where what it compiles finds no room beside it.
_TO_LOAD = 3 * 2**27


@dataclass(frozen=True, slots=True, eq=False)
class ScoringInput:
    """What a score is computed from.

    Attributes
    ----------
    proposal : float32 or float64 array, shape (sections, rows, columns)
        Probability of cell, in [0, 1].
    cell : bool array, shape (sections, rows, columns)
        Where the labels say cell.
    ids : uint32 array of this shape, or None
        The ground truth's segments, 0 = none; None where they are the 4-connected components of `cell`.
    counted : bool array of this shape, or None
        False where nobody knows; None where every pixel counts.
    notes : tuple of str
        What was assumed about the input, for the caller to print.
    """

    proposal: np.ndarray
    cell: np.ndarray
    ids: np.ndarray | None
    counted: np.ndarray | None
    notes: tuple[str, ...]


def check_scoring_input(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    ids: ArrayLike | None = None,
    ignored: ArrayLike | None = None,
) -> ScoringInput:
    """Refuse what cannot be scored, and bring the rest to one form.

    Parameters
    ----------
    probabilities : array, shape (rows, columns) or (sections, rows, columns)
        Probability of cell: float in [0, 1], uint8 (divided by 255 as float32) or bool.
    labels : array of the same shape
        Above zero = cell, zero = membrane.
    ids : array of integers, same shape, optional
        The ground truth's segments, 0 = none.
    ignored : bool array, same shape, optional
        True where nobody knows.

    Returns
    -------
    ScoringInput
        Both as stacks, with notes about what was assumed.

    Raises
    ------
    ImageError
        If shapes differ, are empty or not 2-D or 3-D; if a dtype is not accepted; if a probability is NaN,
        infinite or outside [0, 1]; if most of the labels are membrane, which means that they are inverted.
    """
    found, truth = np.asarray(probabilities), np.asarray(labels)
    _check_shapes(found, truth)
    cell = cells_of(truth)
    segments, counted = None, None
    if ignored is not None:
        counted = ~np.asarray(ignored, np.bool_)
        _check_shapes(found, counted)
        cell = cell & counted
    if ids is not None:
        segments = np.asarray(ids)
        _check_shapes(found, segments)
        segments = np.where(counted, segments, 0) if counted is not None else segments
    check_polarity(share_of_membrane(cell, None if counted is None else ~counted))
    proposal, notes = checked_probabilities(found)
    notes += doubts([level_of(proposal, cell, counted)])
    if found.ndim == 2:
        proposal, cell = proposal[None], cell[None]
        segments = None if segments is None else segments[None]
        counted = None if counted is None else counted[None]
    return ScoringInput(proposal, cell, segments, counted, notes)


def optional_module(name: str) -> Any:
    """Import a module of the ``scores`` extra, or say how to install it.

    Parameters
    ----------
    name : str
        The module.

    Returns
    -------
    module
        The module.

    Raises
    ------
    DependencyError
        If the package is not installed, or does not load.
    ResourceError
        If there is too little memory to load it.
    """
    try:
        if name == "numba" and name not in sys.modules and find_spec(name):
            check_headroom(f"{name}; free some", _TO_LOAD)
        return import_module(name)
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"this score needs {error.name}, which is not installed; pip install 'isbi-infer[scores]'"
        ) from error
    except (ImportError, OSError) as error:  # another NumPy than it is made for, or a library that is missing
        if is_lack_of_memory(error):
            raise ResourceError(f"not enough memory to load {name}; free some") from error
        raise DependencyError(
            f"this score needs {name}, which does not load ({one_line(error)}); run: pip install --force-reinstall "
            "'isbi-infer[scores]'"
        ) from error


def _check_shapes(found: np.ndarray, truth: np.ndarray) -> None:
    if found.shape != truth.shape:
        raise ImageError(
            f"probabilities have shape {found.shape} and labels {truth.shape}; expected the same shape: "
            "score a prediction against the labels of its own sections"
        )
    if found.ndim not in (2, 3):
        raise ImageError(
            f"probabilities and labels have {found.ndim} axes, shape {found.shape}; expected (Y, X) or "
            "(Z, Y, X): drop the channel axis, or split the volumes"
        )
    if found.size == 0:
        raise ImageError(
            f"probabilities and labels are empty, shape {found.shape}; expected at least one pixel"
        )


def cells_of(truth: np.ndarray) -> np.ndarray:
    """Return where labels say cell.

    Parameters
    ----------
    truth : array
        Above zero = cell, zero = membrane.

    Returns
    -------
    bool array, same shape

    Raises
    ------
    ImageError
        If these are no numbers, or some are NaN.
    """
    if truth.dtype.kind not in "biuf":
        raise ImageError(f"labels are {truth.dtype}; expected numbers, above 0 = cell and 0 = membrane")
    if truth.dtype.kind == "f" and np.isnan(truth).any():
        raise ImageError(
            f"labels hold {np.count_nonzero(np.isnan(truth))} NaN; expected above 0 = cell and 0 = membrane: "
            "give every pixel a label"
        )
    return np.asarray(truth > 0)


def pieces_of(ids_YX: np.ndarray) -> np.ndarray:
    """Return the segments that ids are in one section: an id in several pieces is as many.

    Parameters
    ----------
    ids_YX : array of integers, shape (rows, columns)
        Ids of cells, 0 = none.

    Returns
    -------
    array of integers, same shape
        Numbers of the pieces, from 1; 0 = none. Pixels of one id that share a side belong to one piece.
    """
    label = optional_module("skimage.measure").label
    return np.asarray(label(ids_YX, background=0, connectivity=1))


def share_of_membrane(cell: np.ndarray, ignored: np.ndarray | None = None) -> float:
    """Return the share of membrane in the rectangles around each section's cells; see `MOST_MEMBRANE`.

    Parameters
    ----------
    cell : bool array, shape (rows, columns) or (sections, rows, columns)
        Where the labels say cell.
    ignored : bool array of this shape, optional
        True where nobody knows; `cell` is False there.
    """
    sections = cell.reshape(-1, *cell.shape[-2:])
    unknown = [None] * len(sections) if ignored is None else list(ignored.reshape(sections.shape))
    pixels = sum(map(pixels_within, sections, unknown))
    return 1.0 - int(np.count_nonzero(cell)) / pixels if pixels else 0.0


def check_polarity(membrane: float) -> None:
    """Raise ImageError if most of the labels are membrane, which means that they are inverted.

    Parameters
    ----------
    membrane : float
        See `share_of_membrane`.
    """
    if membrane > MOST_MEMBRANE:
        raise ImageError(
            f"{membrane:.1%} of the labels are membrane; expected less than half, as above 0 = cell and "
            "0 = membrane: the labels look inverted, score against labels == 0"
        )


def checked_probabilities(found: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Bring probabilities to float32 or float64 in [0, 1], in the machine's byte order.

    Parameters
    ----------
    found : array
        Probability of cell: float in [0, 1], uint8 (divided by 255 as float32) or bool.

    Returns
    -------
    proposal : float32 or float64 array, same shape
    notes : tuple of str
        What was assumed.

    Raises
    ------
    ImageError
        If these are no probabilities.
    """
    dtype = found.dtype
    if dtype == np.bool_:
        return found.astype(np.float32), ()
    if dtype == np.uint8:
        if found.max() == 1:
            raise ImageError(
                "probabilities are uint8 with the largest value 1; expected 0 to 255, divided by 255: "
                "pass a 0/1 mask as bool"
            )
        # float32, as a file of probabilities holds them: in float64, 51 / 255 would be no more than 0.2
        return found.astype(np.float32) / np.float32(255), ("8-bit probabilities were divided by 255",)
    if dtype.kind != "f" or dtype.itemsize > 8:
        remedy = "divide them by 65535 first" if dtype == np.uint16 else "convert them to float32 first"
        raise ImageError(
            f"probabilities are {dtype}; expected float16, float32 or float64 in [0, 1], uint8 or bool: "
            f"{remedy}"
        )
    proposal = found.astype(np.float64 if dtype.itemsize == 8 else np.float32, copy=False)
    low, high = proposal.min(), proposal.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(
            f"probabilities hold {np.count_nonzero(~np.isfinite(proposal))} NaN or infinite values; expected "
            "numbers in [0, 1]: look for an overflow in the network, or fill the missing pixels"
        )
    if low < 0 or high > 1:
        raise ImageError(
            f"probabilities lie between {low:.6g} and {high:.6g}; expected [0, 1], 1 = cell: apply the "
            "sigmoid to logits, divide integers by their largest value"
        )
    return proposal, ()


@dataclass(frozen=True, slots=True)
class Level:
    """How high probabilities are on cells and on membrane.

    Attributes
    ----------
    binary : bool
        Whether all are 0 or 1.
    on_cell, on_membrane : float
        Their sums.
    cells, membranes : int
        Numbers of pixels by the labels.
    """

    binary: bool
    on_cell: float
    on_membrane: float
    cells: int
    membranes: int


def level_of(proposal: np.ndarray, cell: np.ndarray, counted: np.ndarray | None = None) -> Level:
    """Measure a section or a stack; `proposal` is in [0, 1], `cell` and `counted` bool, of one shape."""
    if counted is not None:
        proposal, cell = proposal[counted], cell[counted]
    cells = int(np.count_nonzero(cell))
    return Level(
        binary=bool(np.all((proposal == 0) | (proposal == 1))),
        on_cell=float(proposal.sum(dtype=np.float64, where=cell)),
        on_membrane=float(proposal.sum(dtype=np.float64, where=~cell)),
        cells=cells,
        membranes=cell.size - cells,
    )


def doubts(levels: Sequence[Level]) -> tuple[str, ...]:
    """Return what makes probabilities look as if they were something else.

    Parameters
    ----------
    levels : sequence of Level
        Those of all sections, or one of the whole stack.

    Returns
    -------
    tuple of str
        Notes for the user.
    """
    notes = []
    if all(level.binary for level in levels):
        notes.append("the probabilities are binarised (only 0 and 1); a soft map scores far higher")
    cells, membranes = sum(level.cells for level in levels), sum(level.membranes for level in levels)
    if not cells or not membranes:
        return tuple(notes)
    on_cell = math.fsum(level.on_cell for level in levels) / cells
    on_membrane = math.fsum(level.on_membrane for level in levels) / membranes
    if on_cell < on_membrane:
        notes.append(
            f"the probabilities are lower on cells (mean {on_cell:.3f}) than on membrane "
            f"({on_membrane:.3f}); if they are probabilities of membrane, score 1 - p"
        )
    return tuple(notes)
