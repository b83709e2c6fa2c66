"""Stacks of greyscale sections into TIFF files, section by section, in the flavour of the input.

The same sections give the same bytes: no dates and no random identifiers are written.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tifffile

from isbi_infer._version import __version__
from isbi_infer.files import replacing
from isbi_infer.volumes.pixel_size import PixelSize, in_unit, pixels_per
from isbi_infer.volumes.protocol import Block, Kind, StackInfo
from isbi_infer.volumes.tiff.directory import GDAL_NODATA

_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_OME_DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
_CLASSIC_BYTES = 2**32 - 2**25
_PAGE_BYTES = 512  # more than a page's directory takes
_MOST_TITLES = 10_000  # ImageJ takes one of each section or none


def output_kind(like: StackInfo, dtype: npt.DTypeLike, shape: tuple[int, ...] | None = None) -> Kind:
    """Return in which flavour a stack will be written.

    Parameters
    ----------
    like : StackInfo
        What the output is to be like.
    dtype : dtype-like
        Of the output.
    shape : tuple of int, optional
        Of the output; by default that of `like`.

    Returns
    -------
    {"imagej", "ome", "tiff"}
        The kind of `like`, except that ImageJ's format, which stops at 4 GiB and knows few dtypes, gives
        way to OME, and OME for dtypes that it does not know to a plain TIFF.
    """
    name, shape = np.dtype(dtype).name, shape or like.shape
    kind = like.kind
    if kind == "imagej" and (name not in _IMAGEJ_DTYPES or not _fits_classic(shape, np.dtype(dtype))):
        kind = "ome"
    return "tiff" if kind == "ome" and name not in _OME_DTYPES else kind


def write_stack(
    path: str | os.PathLike[str],
    sections: Iterable[npt.NDArray[Any]],
    *,
    like: StackInfo,
    dtype: npt.DTypeLike,
    shape: tuple[int, ...] | None = None,
    nodata: float | None = None,
) -> Kind:
    """Write a stack section by section, keeping the flavour, the axes and the pixel size of another.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write: the temporary path that `files.replacing` yields.
    sections : iterable of ndarray
        Each section_YX of `dtype`; consumed one by one, so that a generator needs the memory of one.
    like : StackInfo
        What the output is to be like, usually the input's ``info``.
    dtype : dtype-like
        Of the sections.
    shape : tuple of int, optional
        (Y, X) or (Z, Y, X); by default that of `like`.
    nodata : float, optional
        The value that stands for "no data", for GDAL's tag.

    Returns
    -------
    {"imagej", "ome", "tiff"}
        The flavour written, see `output_kind`.

    Raises
    ------
    OSError
        If the file cannot be written; `files.replacing` makes an OutputError of it.
    ValueError
        If the sections do not have the shape, the dtype or the number that were announced.
    """
    with _StackFile(path, like=like, dtype=dtype, shape=shape, nodata=nodata) as file:
        for section_YX in sections:
            file.write(section_YX)
        return file.finish()


class TiffSink:
    """A result on its way into a TIFF file, in the flavour, axes and pixel size of its input.

    It is a `isbi_infer.volumes.protocol.Sink`; blocks are whole sections and come in order.

    Parameters
    ----------
    path : path
        Replaced when the sink is finished and left, and not before.
    like : StackInfo
        Of the input.
    dtype : dtype-like
        Of the result.
    provenance : str
        One line for the file's metadata on how the result was made, and what it means.
    top : float, optional
        What ImageJ shows as white; by default 1 of floats and the largest integer.
    title : str
        What the sections are, which ImageJ shows above each of them, and OME has as the image's name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        like: StackInfo,
        dtype: npt.DTypeLike,
        provenance: str = "",
        top: float | None = None,
        title: str = "",
    ) -> None:
        self._path, self._like, self._dtype, self._provenance = path, like, dtype, provenance
        self._top, self._title = top, title
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self._path))
            file = _StackFile(
                temporary,
                like=self._like,
                dtype=self._dtype,
                provenance=self._provenance,
                top=self._top,
                title=self._title,
            )
            self._file = stack.enter_context(file)
            self._resources = stack.pop_all()
        return self

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        """Store whole sections, the next ones in order."""
        if block.z[0] != self._file.written:
            raise ValueError(f"section {block.z[0]} comes after {self._file.written} sections")
        for section_YX in values_ZYX:
            self._file.write(section_YX)

    def finish(self) -> tuple[str, ...]:
        """Complete the file; it takes its place when the sink is left without an exception."""
        kind = self._file.finish()
        if kind == self._like.kind:
            return ()
        found = self._like.kind
        return (f"stored as {kind} TIFF, since {found} TIFF cannot hold a result of this size",)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._resources.__exit__(kind, error, trace)


class _StackFile:
    """A stack being written to one path, section by section."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        like: StackInfo,
        dtype: npt.DTypeLike,
        shape: tuple[int, ...] | None = None,
        provenance: str = "",
        top: float | None = None,
        title: str = "",
        nodata: float | None = None,
    ) -> None:
        self._provenance, self._top, self._title = provenance, top, title
        # As GDAL writes it, -32768 and not -32768.0.
        self._extra = [] if nodata is None else [(GDAL_NODATA, "s", 0, f"{nodata:.17g}", True)]
        shape = tuple(shape or like.shape)
        self._stored = np.dtype(dtype).newbyteorder("<")
        self._kind = output_kind(like, self._stored, shape)
        axis = like.axes[0] if len(like.axes) == len(shape) == 3 else "Z"
        axes = (axis + "YX")[-len(shape) :]
        self._info = StackInfo(shape=shape, axes=axes, kind=self._kind, pixel_size=like.pixel_size)
        self._path = path
        self._resources = ExitStack()
        self.written = 0

    def __enter__(self) -> Self:
        options = {"imagej": _imagej, "ome": _ome, "tiff": _plain}[self._kind](self._info, self._stored)
        if self._top is not None and self._kind == "imagej":
            options["metadata"]["max"] = self._top
        if self._title and self._kind == "imagej" and self._info.sections <= _MOST_TITLES:
            options["metadata"]["Labels"] = [self._title] * self._info.sections
        if self._title and self._kind == "ome":
            options["metadata"]["Name"] = self._title
        if self._provenance and self._kind == "imagej":
            options["metadata"]["Info"] = self._provenance  # what Fiji's "Show Info" shows
        software = "; ".join(filter(None, (f"isbi-infer {__version__}", self._provenance)))
        big = not _fits_classic(self._info.shape, self._stored)
        flavour = {"imagej": self._kind == "imagej", "ome": self._kind == "ome"}
        with ExitStack() as stack:
            # The file is opened here, since tifffile keeps quiet about what fails when it closes one.
            self._file = stack.enter_context(open(self._path, "wb"))
            tiff = stack.enter_context(tifffile.TiffWriter(self._file, bigtiff=big, byteorder="<", **flavour))
            # tifffile leaves room for the pixels, which then go from the sections into the file: it would take arrays
            # and not notice a full disk where they are small, or bytes, which are a copy of every section.
            room = tiff.write(
                dtype=self._stored,
                photometric="minisblack",
                software=software,
                returnoffset=True,
                extratags=self._extra,
                **{"shape": self._info.shape, **options},
            )
            assert room is not None
            self._end = self._file.tell()
            self._file.seek(room[0])
            self._resources = stack.pop_all()
        return self

    def write(self, section_YX: npt.NDArray[Any]) -> None:
        """Append one section."""
        info, dtype = self._info, self._stored
        if section_YX.shape != info.shape[-2:] or section_YX.dtype != dtype.newbyteorder("="):
            found, expected = f"{section_YX.dtype} {section_YX.shape}", f"{dtype.name} {info.shape[-2:]}"
            raise ValueError(f"section {self.written} is {found}; expected {expected}")
        if self.written == info.sections:
            raise ValueError(f"expected {info.sections} sections, got more")
        self._file.write(np.ascontiguousarray(section_YX, dtype).data)
        self.written += 1

    def finish(self) -> Kind:
        """Check that all sections are there, and return the flavour of the file."""
        if self.written != self._info.sections:
            raise ValueError(f"expected {self._info.sections} sections, got {self.written}")
        self._file.seek(self._end)
        return self._kind

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._resources.__exit__(kind, error, trace)


def _fits_classic(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    pages = shape[0] if len(shape) == 3 else 1
    return int(np.prod(shape, dtype=object)) * dtype.itemsize + pages * _PAGE_BYTES < _CLASSIC_BYTES


def _imagej(info: StackInfo, dtype: np.dtype[Any]) -> dict[str, Any]:
    height, width = info.shape[-2:]
    frames, slices = (info.sections, 1) if info.axes[0] == "T" else (1, info.sections)
    low, high = (0.0, 1.0) if dtype.kind == "f" else (0, np.iinfo(dtype).max)
    metadata: dict[str, Any] = {"axes": "TZCYXS", "min": low, "max": high}
    options: dict[str, Any] = {"shape": (frames, slices, 1, height, width, 1), "metadata": metadata}
    resolution = _resolution(info.pixel_size, "um")
    if resolution and info.pixel_size is not None:
        options["resolution"] = resolution
        metadata["unit"] = "um"
        if info.pixel_size.z_nm is not None:
            metadata["spacing"] = in_unit(info.pixel_size.z_nm, "um")
    return options


def _ome(info: StackInfo, dtype: np.dtype[Any]) -> dict[str, Any]:
    axes = info.axes if info.axes[0] in "TZY" else "ZYX"
    metadata: dict[str, Any] = {"axes": axes, "Creator": f"isbi-infer {__version__}"}
    for axis in "xyz" if info.pixel_size is not None else "":
        size_nm = getattr(info.pixel_size, f"{axis}_nm")
        if size_nm is not None:
            metadata[f"PhysicalSize{axis.upper()}"] = in_unit(size_nm, "um")
            metadata[f"PhysicalSize{axis.upper()}Unit"] = "µm"
    # tifffile would make one of the clock and of the network card's address.
    metadata["UUID"] = str(uuid.uuid5(uuid.NAMESPACE_OID, f"isbi-infer {info.shape} {dtype.name} {metadata}"))
    return {"metadata": metadata}


def _plain(info: StackInfo, dtype: np.dtype[Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"metadata": None}
    if len(info.shape) == 3 and info.axes[0] != "I":
        named = {"axes": info.axes} if info.axes[0] != "Q" else {}
        options["description"] = json.dumps({"shape": info.shape, **named})
    resolution = _resolution(info.pixel_size, "cm")
    if resolution:
        options |= {"resolution": resolution, "resolutionunit": "CENTIMETER"}
    return options


def _resolution(size: PixelSize | None, unit: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    if size is None:
        return None
    x, y = pixels_per(unit, size.x_nm), pixels_per(unit, size.y_nm)
    return None if x is None or y is None else (x, y)
