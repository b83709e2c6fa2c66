"""The eight flips and rotations of a section, for test-time augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """A rotation by quarter turns, after a flip left to right or none.

    Attributes
    ----------
    turns : int
        Quarter turns, counter-clockwise, 0 to 3.
    flipped : bool
        Whether X is reversed first.
    """

    turns: int
    flipped: bool

    def apply(self, section_YX: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the view of a section; no pixel is copied."""
        return np.rot90(section_YX[:, ::-1] if self.flipped else section_YX, self.turns)

    def undo(self, view_YX: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Bring a view's pixels back to where they were."""
        section_YX = np.rot90(view_YX, -self.turns)
        return section_YX[:, ::-1] if self.flipped else section_YX

    def apply_window(self, window: Window, shape: tuple[int, int]) -> Window:
        """Return where a window of a section of some shape lies in the view."""
        rows, columns = window
        height, width = shape
        if self.flipped:
            columns = slice(width - columns.stop, width - columns.start)
        for _ in range(self.turns):
            rows, columns = slice(width - columns.stop, width - columns.start), rows
            height, width = width, height
        return rows, columns

    def undo_window(self, window: Window, shape: tuple[int, int]) -> Window:
        """Return where in a section of some shape a window of the view lies."""
        rows, columns = window
        height, width = shape if self.turns % 2 == 0 else shape[::-1]
        for _ in range(self.turns):
            rows, columns = columns, slice(height - rows.stop, height - rows.start)
            height, width = width, height
        if self.flipped:
            columns = slice(width - columns.stop, width - columns.start)
        return rows, columns


IDENTITY = (Symmetry(0, False),)
ALL_EIGHT = tuple(Symmetry(turns, flipped) for flipped in (False, True) for turns in range(4))
