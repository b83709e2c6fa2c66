"""What the engine knows of storage: a source gives sections, a sink takes blocks of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from isbi_infer.volumes.pixel_size import StackInfo

Section = npt.NDArray[Any]
Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a result that is computed and stored as one.

    Attributes
    ----------
    index : int
        Its stable id within a plan, from 0.
    z, y, x : (int, int)
        Start and stop along each axis, in pixels of the output.
    """

    index: int
    z: tuple[int, int]
    y: tuple[int, int]
    x: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) in pixels."""
        return self.z[1] - self.z[0], self.y[1] - self.y[0], self.x[1] - self.x[0]


class Source(Protocol):
    """An open volume of greyscale sections.

    Attributes
    ----------
    name : str
        What messages call it: the path as the user wrote it.
    info : StackInfo
        Shape, axes, file format and pixel size.
    dtype : numpy.dtype
        Of the sections, in the machine's byte order.
    notes : tuple of str
        What was done to the pixels or taken for granted, and has to be said.
    """

    name: str
    info: StackInfo
    dtype: np.dtype[np.generic]
    notes: tuple[str, ...]

    def read(self, z: int, window: Window | None = None) -> Section:
        """Read a section or a window of it; safe to call from several threads.

        Parameters
        ----------
        z : int
            0 to ``info.sections - 1``.
        window : (slice, slice), optional
            Rows and columns, with start and stop within the section; all of it when not given.

        Returns
        -------
        ndarray, shape (Y, X)
            Of `dtype`, a new array, all finite.

        Raises
        ------
        ImageError
            If the pixels cannot be read whole, are not finite, or have changed since the volume was opened.
        ResourceError
            If there is no memory for them.
        """

    def fingerprint(self) -> str:
        """Return a short text that changes when the stored volume does, such as its size and time of change."""

    def close(self) -> None:
        """Release the file; what describes the volume stays."""


class Sink(Protocol):
    """A result being written; it appears under its name when it is finished, whole.

    A sink is made for one plan, with the shape, dtype and blocks of its output, and is used as a context manager:
    leaving it without `finish` leaves what was there before.
    """

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        """Store one block; each block of the plan is written once, in any order that the sink allows.

        Parameters
        ----------
        block : Block
            Which part of the output.
        values_ZYX : ndarray, shape ``block.shape``
            Of the output's dtype.

        Raises
        ------
        OutputError
            If the block cannot be stored.
        """

    def finish(self) -> tuple[str, ...]:
        """Put the whole result in place, after all blocks; return notes for the user."""
