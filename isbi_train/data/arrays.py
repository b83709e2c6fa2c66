"""Sections in memory as a source, so that they are planned and run as a file of them would be."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.volumes import PixelSize, Section, StackInfo, Window


class ArraySource:
    """A stack of sections in memory; a `isbi_infer.volumes.protocol.Source`.

    Parameters
    ----------
    image_ZYX : ndarray, shape (Z, Y, X)
        Grey values, all finite.
    name : str
        What messages call it.
    pixel_size : PixelSize, optional
        None where it is not known.
    nodata : float, optional
        Grey value that stands for no measurement; None where there is none.
    """

    def __init__(
        self,
        image_ZYX: npt.NDArray[Any],
        *,
        name: str = "sections",
        pixel_size: PixelSize | None = None,
        nodata: float | None = None,
    ) -> None:
        self._image_ZYX = image_ZYX
        self.name = name
        self.info = StackInfo(shape=image_ZYX.shape, pixel_size=pixel_size)
        self.dtype: np.dtype[np.generic] = image_ZYX.dtype
        self.nodata = nodata
        self.notes: tuple[str, ...] = ()
        self.line: int | None = image_ZYX.shape[-1]

    def read(self, z: int, window: Window | None = None) -> Section:
        """Return a copy of a section, or of a window of it."""
        section_YX = self._image_ZYX[z]
        return np.array(section_YX if window is None else section_YX[window])

    def found(self) -> tuple[str, ...]:
        """Return nothing: arrays hold what they hold."""
        return ()

    def fingerprint(self) -> str:
        """Return the empty text: an array is not stored."""
        return ""

    def close(self) -> None:
        """Do nothing; the array is its owner's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
