"""Stacks of greyscale sections into TIFF files, section by section, in the flavour of the input.

The same sections give the same bytes: no dates and no random identifiers are written.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from isbi_infer._version import __version__
from isbi_infer.volumes.pixel_size import Kind, PixelSize, StackInfo, in_unit, pixels_per

_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_OME_DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
_CLASSIC_BYTES = 2**32 - 2**25
_PAGE_BYTES = 512  # more than a page's directory takes


def output_kind(like: StackInfo, dtype: npt.DTypeLike, shape: tuple[int, ...] | None = None) -> Kind:
    """Tell in which flavour a stack will be written.

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
    shape = tuple(shape or like.shape)
    stored = np.dtype(dtype).newbyteorder("<")
    kind = output_kind(like, stored, shape)
    axis = like.axes[0] if len(like.axes) == len(shape) == 3 else "Z"
    planned = StackInfo(shape=shape, axes=(axis + "YX")[-len(shape) :], kind=kind, pixel_size=like.pixel_size)
    options = {"imagej": _imagej, "ome": _ome, "tiff": _plain}[kind](planned, stored)
    # The file is opened here, since tifffile keeps quiet about what fails when it closes one.
    big = not _fits_classic(shape, stored)
    flavour = {"imagej": kind == "imagej", "ome": kind == "ome"}
    with (
        open(path, "wb") as file,
        tifffile.TiffWriter(file, bigtiff=big, byteorder="<", **flavour) as tiff,
    ):
        # tifffile leaves room for the pixels, which then go from the sections into the file: it would take arrays and
        # not notice a full disk where they are small, or bytes, which are a copy of every section.
        room = tiff.write(
            dtype=stored,
            photometric="minisblack",
            software=f"isbi-infer {__version__}",
            returnoffset=True,
            **{"shape": shape, **options},
        )
        assert room is not None
        end = file.tell()
        file.seek(room[0])
        for section_YX in _checked(sections, planned, stored):
            file.write(section_YX.data)
        file.seek(end)
    return kind


def _fits_classic(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    pages = shape[0] if len(shape) == 3 else 1
    return int(np.prod(shape, dtype=object)) * dtype.itemsize + pages * _PAGE_BYTES < _CLASSIC_BYTES


def _checked(
    sections: Iterable[npt.NDArray[Any]], info: StackInfo, dtype: np.dtype[Any]
) -> Iterator[npt.NDArray[Any]]:
    count = 0
    for count, section_YX in enumerate(sections, start=1):
        if section_YX.shape != info.shape[-2:] or section_YX.dtype != dtype.newbyteorder("="):
            found, expected = f"{section_YX.dtype} {section_YX.shape}", f"{dtype.name} {info.shape[-2:]}"
            raise ValueError(f"section {count - 1} is {found}; expected {expected}")
        if count > info.sections:
            break
        yield np.ascontiguousarray(section_YX, dtype)
    if count != info.sections:
        raise ValueError(
            f"expected {info.sections} sections, got {'more' if count > info.sections else count}"
        )


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
