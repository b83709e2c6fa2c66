"""What the engine knows of storage: a source holds sections, a sink takes blocks of the result."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.volumes.pixel_size import PixelSize

Section = npt.NDArray[Any]
Window = tuple[slice, slice]
Kind = Literal["imagej", "ome", "tiff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackInfo:
    """A section or a stack of sections, without its pixels.

    Attributes
    ----------
    shape : tuple of int
        (Y, X) of one section, (Z, Y, X) of a stack.
    axes : str
        One letter per dimension of `shape`, as the file names them: "YX", "ZYX", "TYX"; "I" or "Q" where
        it does not name the axis of the sections.
    kind : {"imagej", "ome", "tiff"}
        The flavour of TIFF.
    pixel_size : PixelSize or None
        None where it is not known.
    origin_nm : tuple of float or None
        (Z, Y, X) of the first pixel's centre, in nanometres; None where the file does not place it.
    """

    shape: tuple[int, ...]
    axes: str = ""
    kind: Kind = "imagej"
    pixel_size: PixelSize | None = None
    origin_nm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if not self.axes:
            object.__setattr__(self, "axes", "ZYX"[-len(self.shape) :])
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise ValueError(f"shape {self.shape} is neither (Y, X) nor (Z, Y, X)")
        if len(self.axes) != len(self.shape) or not self.axes.endswith("YX"):
            raise ValueError(f"axes {self.axes!r} do not fit the shape {self.shape}")

    @property
    def sections(self) -> int:
        """Number of sections; 1 for a single image."""
        return self.shape[0] if len(self.shape) == 3 else 1


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
    nodata : float or None
        The grey value that stands for "no data", where the volume names one; such pixels may be NaN.
    notes : tuple of str
        What was done to the pixels or taken for granted: what the reader of the results must know.
    line : int or None
        Pixels of the longest row or column of chunks, each of which is decoded whole for any window in it, or of a row
        where there are no chunks; None where a window decodes all of its section.
    """

    name: str
    info: StackInfo
    dtype: np.dtype[np.generic]
    nodata: float | None
    notes: tuple[str, ...]
    line: int | None

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

    def found(self) -> tuple[str, ...]:
        """Return what turned up in the sections read so far that the reader of the results must know."""

    def fingerprint(self) -> str:
        """Return a short text that changes when the stored volume does, such as its size and time of change."""

    def close(self) -> None:
        """Release the file; what describes the volume stays."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


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

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...
