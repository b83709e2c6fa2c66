"""Labelled stacks: reading, checking, and the split into training and held-out sections."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.stacks import open_stack

IMAGES, LABELS = "train-volume.tif", "train-labels.tif"


@dataclass(frozen=True, slots=True)
class LabelledStack:
    """Sections with their labels.

    Attributes
    ----------
    image_ZYX : ndarray, shape (Z, Y, X)
        Grey values as stored.
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


def load_labelled(folder: Path) -> LabelledStack:
    """Read ``train-volume.tif`` and ``train-labels.tif`` from one folder.

    Parameters
    ----------
    folder : Path
        Where both files lie.

    Returns
    -------
    LabelledStack

    Raises
    ------
    ImageError
        If a file is missing or damaged, their shapes differ, or the labels' polarity is wrong.
    """
    with open_stack(folder / IMAGES) as images, open_stack(folder / LABELS) as labels:
        image_ZYX = np.stack(list(images))
        label_ZYX = np.stack(list(labels))
        size = images.pixel_size
    if image_ZYX.shape != label_ZYX.shape:
        raise ImageError(
            f"{folder}: {IMAGES} is {image_ZYX.shape}, {LABELS} is {label_ZYX.shape}; they must have one shape"
        )
    cell_ZYX = label_ZYX > 0
    if cell_ZYX.mean() < 0.5:
        raise ImageError(
            f"{folder / LABELS}: {1 - cell_ZYX.mean():.0%} of the pixels are membrane (0); "
            "labels must be 255 = cell and 0 = membrane, so this looks inverted"
        )
    return LabelledStack(image_ZYX, cell_ZYX, size.x_nm if size else None)


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
        raise UsageError(f"cannot hold out {hold_out} of {len(stack)} sections")
    return stack[: len(stack) - hold_out], stack[len(stack) - hold_out :]
