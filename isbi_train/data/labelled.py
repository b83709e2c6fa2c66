"""Labelled stacks: reading, checking, and the split into training and held-out sections."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.volumes import PixelSize, open_stack
from isbi_infer.volumes.zarr.reader import is_volume
from isbi_train.config.inputs import LabelKind
from isbi_train.data.labels import cell_mask, check_annotated
from isbi_train.data.omezarr import read_omezarr
from isbi_train.data.resample import resample_images, resample_labels, resampled_shape

IMAGES, LABELS = "train-volume.tif", "train-labels.tif"

_SMALLEST_NM, _LARGEST_NM = 0.1, 10_000.0
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
    """

    image_ZYX: npt.NDArray[np.generic]
    cell_ZYX: npt.NDArray[np.bool_]
    pixel_size_nm: float | None

    def __len__(self) -> int:
        return len(self.image_ZYX)

    def __getitem__(self, sections: slice) -> LabelledStack:
        return LabelledStack(self.image_ZYX[sections], self.cell_ZYX[sections], self.pixel_size_nm)

    def sha256(self) -> dict[str, str]:
        """Hash the grey values and the labels (as bytes 0 and 1), each in C order."""
        return {
            "images": hashlib.sha256(self.image_ZYX.tobytes()).hexdigest(),
            "labels": hashlib.sha256(self.cell_ZYX.tobytes()).hexdigest(),
        }


def load_labelled(
    data: Path,
    *,
    labels: Path | None = None,
    labels_are: LabelKind = "cell",
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
        What the labels mean, see `isbi_train.data.labels.cell_mask`.
    pixel_size_nm : float, optional
        Side of a pixel within a section, in nanometres, where the file does not say it or is wrong.
    resample_nm : float, optional
        Side of a pixel wanted, in nanometres; sections within 1 % of it stay as they are, as in inference. See
        `isbi_train.data.resample` for what becomes of images and labels.

    Returns
    -------
    LabelledStack

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
    if pixel_size_nm is not None and not _SMALLEST_NM <= pixel_size_nm <= _LARGEST_NM:
        raise UsageError(
            f"a pixel size of {pixel_size_nm:g} nm is invalid; expected {_SMALLEST_NM:g} to {_LARGEST_NM:g}"
        )
    image_path, label_path = _files(data, labels)
    image_ZYX, size = read_volume(image_path)
    label_ZYX, _ = read_volume(label_path)
    if image_ZYX.shape != label_ZYX.shape:
        raise ImageError(
            f"{label_path} is {label_ZYX.shape}, but its sections {image_path} are {image_ZYX.shape}; "
            "they must have one shape"
        )
    if image_ZYX.dtype.kind == "b":
        raise ImageError(f"{image_path}: found {image_ZYX.dtype} pixels; expected grey values")
    from_nm = pixel_size_nm or side_nm(image_path, size)
    shape = resampled_shape(image_ZYX.shape[1:], from_nm, resample_nm) if resample_nm is not None else None
    try:
        check_annotated(label_ZYX)
        if shape is None:
            return LabelledStack(image_ZYX, cell_mask(label_ZYX, labels_are), from_nm)
        cell_ZYX = resample_labels(label_ZYX, labels_are, shape)
    except ImageError as error:
        where = f"{label_path}, resampled to {resample_nm:g} nm" if shape else label_path
        raise ImageError(f"{where}: {error}") from error
    return LabelledStack(resample_images(image_ZYX, shape), cell_ZYX, resample_nm)


def read_volume(path: Path) -> tuple[npt.NDArray[Any], PixelSize | None]:
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

    Raises
    ------
    ImageError
        If this is not one whole greyscale stack.
    """
    if is_volume(path):
        return read_omezarr(path)
    with open_stack(path) as stack:
        return np.stack(list(stack)), stack.pixel_size


def _files(data: Path, labels: Path | None) -> tuple[Path, Path]:
    if data.is_dir() and not is_volume(data):
        return data / IMAGES, labels or data / LABELS
    if labels is None:
        if not data.exists():
            raise ImageError(
                f"{data}: is not there; expected a folder with {IMAGES} and {LABELS}, or a stack with labels of its own"
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
