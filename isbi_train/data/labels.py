"""Labels as people keep them, read by one rule: cell interior or membrane, ids of cells, and what is ignored.

::

    stored labels  ->  survey_labels: whole, once      ->  which sections somebody annotated, or an error
                   ->  section_labels: one at a time   ->  cell_YX, ids_YX, ignored_YX

Errors raised here do not name the file; whoever read the labels does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError
from isbi_train.config.inputs import LabelKind, label_kind

MOST_MEMBRANE = 0.5  # share of labels, above which they look inverted and nothing is scored against them

_SHOWN = 5
_MANY = 1000  # values that are told apart in a message
_IDS = 2**32
_RAGGED = 0.5  # of neighbours in a row that differ; of ids few do, of grey values most
_ALONE = 0.4  # pixels in a row unlike both neighbours, to each change of value; of ids few are, of a blurred mask most

Labels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What stored labels mean.

    Attributes
    ----------
    labels_are : {"cell", "membrane", "instances"}
        "cell" and "membrane": zero and one value above it, which marks what is named (255/0, 1/0, bool).
        "instances": integers, an id for each cell, 0 = background or membrane; see `instance_interiors`.
    ignore : float or None
        Value that marks what nobody knows; None where there is no such value.
    """

    labels_are: LabelKind = "cell"
    ignore: float | None = None

    @classmethod
    def of(cls, labels_are: str, ignore: float | None = None) -> LabelRule:
        """Return the rule that a user named; UsageError if the kind is unknown."""
        return cls(label_kind(labels_are), ignore)


@dataclass(frozen=True, slots=True, eq=False)
class SectionLabels:
    """The labels of one section.

    Attributes
    ----------
    cell_YX : ndarray of bool, shape (Y, X)
        True = cell interior; False = membrane, or ignored.
    ids_YX : ndarray of uint32, shape (Y, X), or None
        Ids of cells, 0 = none or ignored; None where the labels hold none.
    ignored_YX : ndarray of bool, shape (Y, X), or None
        True where nobody knows; None where all counts.
    """

    cell_YX: Mask
    ids_YX: npt.NDArray[np.uint32] | None = None
    ignored_YX: Mask | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What all sections of a label stack together are.

    Attributes
    ----------
    annotated : tuple of int
        The sections that hold more than one value, in order.
    blank : tuple of int
        Those that hold one value throughout, beside what is ignored: nobody annotated them.
    """

    annotated: tuple[int, ...]
    blank: tuple[int, ...]

    def note(self) -> str | None:
        """Return a line for users on the sections that are left out; None where none are."""
        if not self.blank:
            return None
        sections = ", ".join(map(str, self.blank))
        return (
            f"labels hold a single value in section {sections} (from 0), which nobody annotated, as it seems; "
            f"left out; {len(self.annotated)} are left"
        )


def survey_labels(
    read: Callable[[int], Labels], sections: Iterable[int], rule: LabelRule | None = None
) -> Survey:
    """Look at all sections once, one at a time, and refuse what are no labels of this kind.

    Parameters
    ----------
    read : callable
        Takes the number of a section and returns it as stored, shape (Y, X).
    sections : iterable of int
        Which ones.
    rule : LabelRule
        What the labels mean; "cell" when not given.

    Returns
    -------
    Survey

    Raises
    ------
    ImageError
        If no section is annotated; if the labels are of another kind: a mask that was interpolated or stored as
        JPEG, a grey image, ids given as a mask or a mask as ids; or if most of them are membrane, which means that they
        are inverted.
    """
    rule = rule or LabelRule()
    annotated, blank = [], []
    values: set[float] = set()
    of_blank: set[float] = set()
    cells = counted = within = 0
    for z in sections:
        label_YX = read(z)
        _check_numbers(label_YX)
        known = label_YX if rule.ignore is None else label_YX[label_YX != rule.ignore]
        found = np.unique(known)
        if rule.labels_are == "instances":
            _check_ids(label_YX, found)
        if len(found) < 2:
            blank.append(z)
            of_blank.update(found.tolist())
            continue
        if len(values) <= _MANY:
            values.update(found.tolist())
        annotated.append(z)
        labels = _section(label_YX, rule)
        cells += int(np.count_nonzero(labels.cell_YX))
        counted += known.size
        within += pixels_within(labels.cell_YX, labels.ignored_YX)
    _check_values(np.array(sorted(values or of_blank)), rule.labels_are, annotated)
    _check_classes(cells, counted, rule.labels_are, within)
    return Survey(tuple(annotated), tuple(blank))


def section_labels(label_YX: Labels, rule: LabelRule) -> SectionLabels:
    """Read one section of labels that `survey_labels` has accepted.

    Parameters
    ----------
    label_YX : ndarray of integer, floating or bool dtype, shape (Y, X)
        As stored.
    rule : LabelRule
        What they mean.

    Returns
    -------
    SectionLabels
    """
    return _section(label_YX, rule)


def stacked(sections: Iterable[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
    """Stack arrays of sections, of which all or none are there; None for none."""
    found = [section_YX for section_YX in sections if section_YX is not None]
    return np.stack(found) if found else None


def _section(label_YX: Labels, rule: LabelRule) -> SectionLabels:
    ignored_YX = None if rule.ignore is None else label_YX == rule.ignore
    if rule.labels_are == "instances":
        ids_YX = label_YX.astype(np.uint32)
        if ignored_YX is not None:
            ids_YX[ignored_YX] = 0
        return SectionLabels(_interiors(ids_YX), ids_YX, ignored_YX)
    cell_YX = label_YX != 0 if rule.labels_are == "cell" else label_YX == 0
    if ignored_YX is not None:
        cell_YX &= ~ignored_YX
    return SectionLabels(cell_YX, None, ignored_YX)


def cell_mask(label_ZYX: Labels, labels_are: str = "cell", ignore: float | None = None) -> Mask:
    """Distinguish cell interior from membrane in a whole stack.

    Parameters
    ----------
    label_ZYX : ndarray of integer, floating or bool dtype, shape (Z, Y, X)
        As stored.
    labels_are : {"cell", "membrane", "instances"}
        What they mean, see `LabelRule`.
    ignore : float, optional
        Value that marks what nobody knows.

    Returns
    -------
    ndarray of bool, shape (Z, Y, X)
        True = cell interior.

    Raises
    ------
    ImageError
        As for `survey_labels`.
    UsageError
        If the kind is unknown.
    """
    rule = LabelRule.of(labels_are, ignore)
    survey_labels(label_ZYX.__getitem__, range(len(label_ZYX)), rule)
    return np.stack([_section(label_YX, rule).cell_YX for label_YX in label_ZYX])


def check_both_classes(cell_ZYX: Mask, labels_are: LabelKind, ignored_ZYX: Mask | None = None) -> None:
    """Raise ImageError where labels hold one class only, or most of them are membrane.

    Parameters
    ----------
    cell_ZYX : ndarray of bool, shape (Z, Y, X)
        True = cell interior.
    labels_are : {"cell", "membrane", "instances"}
        What they were made of, for the message.
    ignored_ZYX : ndarray of bool, shape (Z, Y, X), optional
        True where nobody knows.
    """
    ignored = [None] * len(cell_ZYX) if ignored_ZYX is None else list(ignored_ZYX)
    counted = cell_ZYX.size if ignored_ZYX is None else int(np.count_nonzero(~ignored_ZYX))
    within = sum(map(pixels_within, cell_ZYX, ignored))
    _check_classes(int(np.count_nonzero(cell_ZYX)), counted, labels_are, within)


def instance_interiors(label_ZYX: Labels) -> Mask:
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
    _check_ids(label_ZYX, np.unique(label_ZYX))
    _check_values(np.unique(label_ZYX), "instances", range(len(label_ZYX)))
    return np.stack([_interiors(label_YX) for label_YX in label_ZYX])


def _interiors(ids_YX: npt.NDArray[np.integer]) -> Mask:
    cell_YX = ids_YX > 0
    for here, there in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        meet = (ids_YX[here] != ids_YX[there]) & (ids_YX[here] > 0) & (ids_YX[there] > 0)
        cell_YX[here] &= ~meet
        cell_YX[there] &= ~meet
    return cell_YX


def _check_numbers(label_YX: Labels) -> None:
    if label_YX.dtype.kind not in "biuf":
        raise ImageError(f"labels are {label_YX.dtype}; expected numbers")
    if label_YX.dtype.kind == "f" and np.isnan(label_YX).any():
        raise ImageError(
            f"labels hold {np.count_nonzero(np.isnan(label_YX))} NaN; expected a label for every pixel; give those "
            "that nobody knows a value of their own, and name it with --ignore"
        )


def _check_ids(label: Labels, found: Labels) -> None:
    if label.dtype.kind not in "iu":
        raise ImageError(
            f"instance labels are {label.dtype}; expected integers, 0 = background and an id for each cell"
        )
    if len(found) and found[0] < 0:
        raise ImageError(f"instance labels go down to {found[0]}; expected ids from 1 and 0 = background")
    if len(found) and int(found[-1]) >= _IDS:
        raise ImageError(f"an id is {found[-1]}; expected ids below 2^32; number the cells anew")
    changes_YX = label[..., 1:] != label[..., :-1]
    changes = np.count_nonzero(changes_YX)
    alone = np.count_nonzero(changes_YX[..., 1:] & changes_YX[..., :-1] & (label[..., 1:-1] != 0))
    ragged = changes / max(1, changes_YX.size)
    if len(found) > _SHOWN and (ragged > _RAGGED or alone > _ALONE * changes):
        raise ImageError(
            f"instance labels change from pixel to pixel ({ragged:.0%} of neighbours differ), as grey values and "
            "interpolated masks do; expected an id for each cell"
        )


def _check_values(values: Labels, labels_are: LabelKind, annotated: Sequence[int]) -> None:
    """Refuse the values of a whole stack that do not go with what the labels are said to be."""
    if labels_are == "instances":
        if np.count_nonzero(values) < 2:
            raise ImageError(
                f"instance labels hold the single id {values[-1] if len(values) else 0:.0f}; expected one for each "
                "cell; labels of two values are of the kind cell or membrane"
            )
        if not annotated:
            raise ImageError(_NOBODY)
        return
    if len(values) < 2:
        raise ImageError(_single(values, labels_are))
    if len(values) == 2 and values[0] == 0:
        if not annotated:
            raise ImageError(_NOBODY)
        return
    shown = ", ".join(f"{value:g}" for value in values[:_SHOWN].astype(np.float64))
    count = f"more than {_MANY}" if len(values) > _MANY else f"{len(values)}"
    more = f", ... ({count} values)" if len(values) > _SHOWN else ""
    remedy = "the lowest is not 0"
    if len(values) > 2:
        remedy = (
            "ids of cells are labels of the kind instances (--labels-are ids); a value that marks what nobody knows is "
            "named with --ignore; bring a mask that was interpolated or stored as JPEG back to two values"
        )
    raise ImageError(
        f"labels hold {shown}{more}; expected 0 and one value above it, which marks {labels_are}; {remedy}"
    )


_NOBODY = "labels hold a single value in every section, so nobody annotated them; expected cell and membrane in each"


def _single(values: Labels, labels_are: LabelKind) -> str:
    if not len(values):
        return "every label has the value that is ignored; expected cell and membrane"
    cell = (values[0] != 0) == (labels_are == "cell")
    return f"labels hold no {'membrane' if cell else 'cell'} at all; expected both, since nothing is learnt of one"


def pixels_within(cell_YX: Mask, ignored_YX: Mask | None = None) -> int:
    """Count the pixels of the rectangle around a section's cells, but the ignored ones.

    Labels are padded with 0 where images are padded with black; beyond the outermost cells it tells nothing.
    """
    rows, columns = np.flatnonzero(cell_YX.any(axis=1)), np.flatnonzero(cell_YX.any(axis=0))
    if not len(rows):
        return cell_YX.size if ignored_YX is None else int(np.count_nonzero(~ignored_YX))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return cell_YX[box].size if ignored_YX is None else int(np.count_nonzero(~ignored_YX[box]))


def _check_classes(cells: int, counted: int, labels_are: LabelKind, within: int) -> None:
    """Refuse labels of one class, and those that are mostly membrane within the rectangles around cells."""
    if cells in (0, counted):
        raise ImageError(
            f"labels hold no {'membrane' if cells else 'cell'} at all; expected both, since nothing is learnt of one"
        )
    membrane = 1 - cells / within
    if membrane > MOST_MEMBRANE:
        raise ImageError(_inverted(membrane, labels_are))


def _inverted(membrane: float, labels_are: LabelKind) -> str:
    if labels_are == "instances":
        return f"{membrane:.0%} of the pixels are membrane (id 0 or a border); expected less than half"
    meaning = "255 = cell and 0 = membrane" if labels_are == "cell" else "255 = membrane and 0 = cell"
    return f"{membrane:.0%} of the pixels are membrane; labels must be {meaning}, so they look inverted"
