"""Labelled stacks: reading, checking, and the split into training and held-out sections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.plan.scaling import check_pixel_size
from isbi_infer.terminal import nearest_file
from isbi_infer.volumes import PixelSize, open_stack
from isbi_infer.volumes.pixel_size import SAME
from isbi_infer.volumes.zarr.reader import is_volume
from isbi_train.data.labels import (
    LabelRule,
    check_both_classes,
    instance_interiors,
    section_labels,
    stacked,
    survey_labels,
)
from isbi_train.data.omezarr import read_omezarr
from isbi_train.data.resample import (
    resample_cells,
    resample_ids,
    resample_ignored,
    resample_images,
    resampled_shape,
)

IMAGES, LABELS = "train-volume.tif", "train-labels.tif"

_SQUARE = 0.01


@dataclass(frozen=True, slots=True)
class LabelledStack:
    """Sections with their labels.

    Attributes
    ----------
    image_ZYX : ndarray, shape (Z, Y, X)
        Grey values as stored; float32 where they were resampled.
    cell_ZYX : ndarray of bool, shape (Z, Y, X)
        True = cell interior, False = membrane.
    pixel_size_nm : float or None
        Side of a pixel within a section.
    ignored_ZYX : ndarray of bool, shape (Z, Y, X), or None
        True where nothing is known: left out of losses and scores. None where all counts.
    ids_ZYX : ndarray of uint32, shape (Z, Y, X), or None
        Ids of cells, 0 = none; None where the labels hold none.
    notes : tuple of str
        What a user must know about the files: what their readers said, and sections that are left out.
    places : tuple of int or None
        Numbers of the sections in the stack that they were taken from; None where these are 0, 1, 2 and so on.
    anisotropy : float or None
        How many times as deep as wide its voxels are, by its file; None where that does not say, or is overruled.
    stored_sha256 : dict of str to str, or None
        Of a whole stack that was resampled: what `sha256` gave before.
    """

    image_ZYX: npt.NDArray[np.generic]
    cell_ZYX: npt.NDArray[np.bool_]
    pixel_size_nm: float | None
    ignored_ZYX: npt.NDArray[np.bool_] | None = None
    ids_ZYX: npt.NDArray[np.uint32] | None = None
    notes: tuple[str, ...] = ()
    places: tuple[int, ...] | None = None
    anisotropy: float | None = None
    stored_sha256: dict[str, str] | None = None

    def __len__(self) -> int:
        return len(self.image_ZYX)

    def __getitem__(self, sections: slice | npt.NDArray[np.intp]) -> LabelledStack:
        chosen = self.numbers[sections]
        return replace(
            self,
            image_ZYX=self.image_ZYX[sections],
            cell_ZYX=self.cell_ZYX[sections],
            ignored_ZYX=None if self.ignored_ZYX is None else self.ignored_ZYX[sections],
            ids_ZYX=None if self.ids_ZYX is None else self.ids_ZYX[sections],
            places=None if np.array_equal(chosen, np.arange(len(chosen))) else tuple(chosen.tolist()),
            stored_sha256=None,
        )

    @property
    def numbers(self) -> npt.NDArray[np.intp]:
        """Numbers of the sections in the stack that they were taken from."""
        return np.arange(len(self)) if self.places is None else np.array(self.places, np.intp)

    @property
    def runs(self) -> list[slice]:
        """Sections that follow each other in the stack that they were taken from: neighbours are among these only."""
        starts = [0, *(np.flatnonzero(np.diff(self.numbers) != 1) + 1).tolist()]
        return [slice(*ends) for ends in pairwise([*starts, len(self)])]

    @property
    def known_Z(self) -> npt.NDArray[np.bool_]:
        """Whether something is known of each section."""
        if self.ignored_ZYX is None:
            return np.ones(len(self), np.bool_)
        return ~np.asarray(self.ignored_ZYX.all(axis=(1, 2)))

    def annotated(self) -> LabelledStack:
        """Return the sections of which something is known; their numbers are then others than in the file."""
        if self.ignored_ZYX is None:
            return self
        known = self if self.known_Z.all() else self[np.flatnonzero(self.known_Z)]
        assert known.ignored_ZYX is not None
        return known if known.ignored_ZYX.any() else replace(known, ignored_ZYX=None)

    def with_ids(self, ids_ZYX: npt.NDArray[np.uint32]) -> LabelledStack:
        """Return the stack with other ids, and with the membranes between these."""
        cell_ZYX = instance_interiors(ids_ZYX)
        if self.ignored_ZYX is not None:
            cell_ZYX &= ~self.ignored_ZYX
        return replace(self, ids_ZYX=ids_ZYX, cell_ZYX=cell_ZYX, stored_sha256=None)

    def sha256(self) -> dict[str, str]:
        """Hash what a stack is known by, each in C order.

        Of a whole stack that was resampled as it was before, so that it is known again at any pixel size.

        Returns
        -------
        dict of str to str
            ``images``, the grey values; ``labels``, as bytes 0 and 1; ``ignored`` and ``ids`` where there are any.
        """
        if self.stored_sha256 is not None:
            return dict(self.stored_sha256)
        found = {
            "images": self.image_ZYX,
            "labels": self.cell_ZYX,
            "ignored": self.ignored_ZYX,
            "ids": self.ids_ZYX,
        }
        return {
            name: hashlib.sha256(part.tobytes()).hexdigest()
            for name, part in found.items()
            if part is not None
        }


def load_labelled(
    data: Path,
    *,
    labels: Path | None = None,
    labels_are: str = "cell",
    ignore: float | None = None,
    pixel_size_nm: float | None = None,
    resample_nm: float | None = None,
) -> LabelledStack:
    """Read sections and their labels.

    Parameters
    ----------
    data : Path
        A folder with ``train-volume.tif`` and ``train-labels.tif``, or a stack: a TIFF file or an OME-Zarr folder.
    labels : Path, optional
        The labels of a stack, a TIFF file or an OME-Zarr folder too; in a folder, instead of ``train-labels.tif``.
    labels_are : {"cell", "membrane", "instances"}
        What the labels mean, see `isbi_train.data.labels.LabelRule`; "cells", "membranes" and "ids" are the same.
    ignore : float, optional
        Value of labels that marks what nobody knows.
    pixel_size_nm : float, optional
        Side of a pixel within a section, in nanometres, where the file does not say it or is wrong.
    resample_nm : float, optional
        Side of a pixel wanted, in nanometres; sections within 1 % of it stay as they are, as in inference. See
        `isbi_train.data.resample` for what becomes of images and labels.

    Returns
    -------
    LabelledStack
        All sections, in order. Those that nobody annotated, and those of whose labels resampling leaves nothing, are
        ignored throughout, and its notes name them; see `LabelledStack.annotated`.

    Raises
    ------
    ImageError
        If a file is missing or damaged, their shapes differ, pixels are not square, or the labels are of another
        kind, of one class only, or inverted.
    UsageError
        If the labels of a stack are not named, or a pixel size is invalid.
    DependencyError
        If this is OME-Zarr and zarr is not installed.
    """
    if pixel_size_nm is not None:
        check_pixel_size(pixel_size_nm)
    rule = LabelRule.of(labels_are, ignore)
    image_path, label_path = _files(data, labels)
    image_ZYX, size, image_notes = read_volume(image_path)
    label_ZYX, _, label_notes = read_volume(label_path)
    notes = [
        f"{path}: {note}"
        for path, said in ((image_path, image_notes), (label_path, label_notes))
        for note in said
    ]
    if image_ZYX.shape != label_ZYX.shape:
        raise ImageError(
            f"{label_path} is {label_ZYX.shape}, but its sections {image_path} are {image_ZYX.shape}; "
            "they must have one shape"
        )
    if image_ZYX.dtype.kind == "b":
        raise ImageError(f"{image_path}: found {image_ZYX.dtype} pixels; expected grey values")
    from_nm = pixel_size_nm or side_nm(image_path, size)
    try:
        survey = survey_labels(label_ZYX.__getitem__, range(len(label_ZYX)), rule)
    except ImageError as error:
        raise ImageError(f"{label_path}: {error}") from error
    found = [section_labels(label_YX, rule) for label_YX in label_ZYX]
    cell_ZYX = np.stack([each.cell_YX for each in found])
    ignored_ZYX = stacked(each.ignored_YX for each in found)
    if survey.blank:
        notes.append(f"{label_path}: {survey.note()}")
        ignored_ZYX = np.zeros_like(cell_ZYX) if ignored_ZYX is None else ignored_ZYX
        ignored_ZYX[list(survey.blank)] = True
        cell_ZYX[list(survey.blank)] = False
    stack = LabelledStack(
        image_ZYX,
        cell_ZYX,
        from_nm,
        ignored_ZYX,
        stacked(each.ids_YX for each in found),
        tuple(notes),
        anisotropy=_anisotropy(size, pixel_size_nm),
    )
    if resample_nm is None:
        return stack
    try:
        at_size = resampled(stack, resample_nm)
    except ImageError as error:
        raise ImageError(f"{label_path}, resampled to {resample_nm:g} nm: {error}") from error
    if at_size is stack:
        return stack
    notes += lost_sections(label_path, stack, at_size)
    return replace(at_size, notes=tuple(notes), stored_sha256=stack.sha256())


def lost_sections(path: Path, stored: LabelledStack, at_size: LabelledStack) -> tuple[str, ...]:
    """Name the sections of whose labels resampling leaves nothing, in a line for users; no line where there are none.

    Parameters
    ----------
    path : Path
        The file of the labels.
    stored, at_size : LabelledStack
        The same sections before and after.
    """
    lost = stored.numbers[stored.known_Z & ~at_size.known_Z]
    if not len(lost):
        return ()
    return (
        f"{path}: at {at_size.pixel_size_nm:g} nm every pixel of {named_sections(lost)} (from 0) takes in some that "
        "are ignored; left out",
    )


def named_sections(numbers: Iterable[int]) -> str:
    """Name sections by their numbers, such as "section 3" or "sections 3, 4, 9"."""
    found = [str(number) for number in numbers]
    return f"section{'s' if len(found) > 1 else ''} {', '.join(found)}"


def resampled(stack: LabelledStack, resample_nm: float) -> LabelledStack:
    """Bring a stack to another pixel size.

    Parameters
    ----------
    stack : LabelledStack
        As stored.
    resample_nm : float
        Side of a pixel wanted, in nanometres. Sections within 1 % of it stay as they are, as in inference.

    Returns
    -------
    LabelledStack
        Membranes are derived from ids anew. What is ignored grows: a pixel of which any part is ignored is ignored.

    Raises
    ------
    UsageError
        If the stack's pixel size is not known, or too far off.
    ImageError
        If its labels hold one class only at this size, or all that is left of them is ignored.
    """
    shape = resampled_shape(stack.image_ZYX.shape[1:], stack.pixel_size_nm, resample_nm)
    if shape is None:
        return stack
    ids_ZYX = None if stack.ids_ZYX is None else resample_ids(stack.ids_ZYX, shape)
    ignored_ZYX = None if stack.ignored_ZYX is None else resample_ignored(stack.ignored_ZYX, shape)
    if ignored_ZYX is not None and ignored_ZYX.all():
        raise ImageError(
            f"nothing is left of the labels at {resample_nm:g} nm, where every pixel takes in some that are ignored; "
            "annotate areas instead of lines, or train at a smaller pixel size"
        )
    cell_ZYX = resample_cells(stack.cell_ZYX, shape) if ids_ZYX is None else instance_interiors(ids_ZYX)
    if ignored_ZYX is not None:
        cell_ZYX &= ~ignored_ZYX
    check_both_classes(cell_ZYX, "cell" if ids_ZYX is None else "instances", ignored_ZYX)
    return replace(
        stack,
        image_ZYX=resample_images(stack.image_ZYX, shape),
        cell_ZYX=cell_ZYX,
        pixel_size_nm=resample_nm,
        ignored_ZYX=ignored_ZYX,
        ids_ZYX=ids_ZYX,
    )


def read_volume(path: Path) -> tuple[npt.NDArray[Any], PixelSize | None, tuple[str, ...]]:
    """Read a stack whole.

    Parameters
    ----------
    path : Path
        A TIFF file or an OME-Zarr folder.

    Returns
    -------
    volume_ZYX : ndarray, shape (Z, Y, X)
        Of the stored dtype; a single section has Z = 1.
    pixel_size : PixelSize or None
        None where the file does not say.
    notes : tuple of str
        What its reader has to say.

    Raises
    ------
    ImageError
        If this is not one whole greyscale stack.
    """
    if is_volume(path):
        return *read_omezarr(path), ()
    with open_stack(path) as stack:
        return np.stack(list(stack)), stack.pixel_size, stack.notes


def _anisotropy(size: PixelSize | None, given_nm: float | None) -> float | None:
    """Return how many times as deep as wide voxels are, by a file that is believed."""
    if size is None or not size.z_nm or (given_nm is not None and abs(given_nm / size.x_nm - 1) > SAME):
        return None
    return size.z_nm / size.x_nm


def _files(data: Path, labels: Path | None) -> tuple[Path, Path]:
    if data.is_dir() and not is_volume(data):
        return data / IMAGES, labels or data / LABELS
    if labels is None:
        if not data.exists():
            raise ImageError(
                f"{data}: is not there; expected a folder with {IMAGES} and {LABELS}, or a stack with labels of its own"
                f"{nearest_file(data)}"
            )
        raise UsageError(f"{data}: a stack has its labels in a file of their own; name it with --labels")
    return data, labels


def side_nm(path: Path, size: PixelSize | None) -> float | None:
    """Return the side of a stack's pixels in nanometres; ImageError, naming the file, if they are not square."""
    if size is None:
        return None
    if abs(size.x_nm - size.y_nm) > _SQUARE * size.x_nm:
        raise ImageError(
            f"{path}: pixels of {size.y_nm:g} x {size.x_nm:g} nm; expected square ones; resample the stack, or "
            "give the size if the file is wrong"
        )
    return size.x_nm


def split(stack: LabelledStack, hold_out: int) -> tuple[LabelledStack, LabelledStack]:
    """Keep the last sections for validation; neighbours look alike, so never split at random.

    Parameters
    ----------
    stack : LabelledStack
        All sections.
    hold_out : int
        How many of the last sections are held out.

    Returns
    -------
    (LabelledStack, LabelledStack)
        For training and for validation.
    """
    if not 0 < hold_out < len(stack):
        raise UsageError(
            f"cannot hold out {hold_out} of {len(stack)} sections; expected at least one on each side"
        )
    return stack[: len(stack) - hold_out], stack[len(stack) - hold_out :]
