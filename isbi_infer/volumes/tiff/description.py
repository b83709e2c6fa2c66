"""What the description of a TIFF declares: how many sections, along which axis, in which order, of what size.

Three dialects are read: ImageJ's lines of ``key=value``, OME-XML (`isbi_infer.volumes.tiff.ome`) and tifffile's JSON
``{"shape": ...}``. Whatever the dialect, a stack has one axis besides Y and X once channel and time are chosen, and the
file has to hold exactly the sections that are declared.

Errors raised here do not name the file; whoever opens it does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from isbi_infer.errors import ImageError
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.protocol import StackInfo
from isbi_infer.volumes.tiff.directory import COPY
from isbi_infer.volumes.tiff.scale import Found, Resolution, from_imagej, settle

ONE_AXIS = "expected one stack of sections or one image; save the wanted part as a file of its own"
_IMAGEJ_COUNTS = ("images", "frames", "slices", "channels")


class Selection(NamedTuple):
    """Which part of a file is wanted, each counted from 0; None where there is nothing to choose.

    Attributes
    ----------
    channel, time : int or None
        Of a stack with more axes than Z.
    series : int or None
        Of a file that holds several images or stacks.
    """

    channel: int | None = None
    time: int | None = None
    series: int | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._asdict().items() if value is not None)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a file declares.

    Attributes
    ----------
    info : StackInfo
        Shape, axes, kind and pixel size of the part that was chosen.
    pages : sequence of int
        The page of each plane in the file; a single one if the pixels of all planes follow each other from there.
    planes : sequence of int
        The plane of each section.
    total : int
        Number of planes, also of those that were not chosen.
    notes : tuple of str
        About the pixel size.
    """

    info: StackInfo
    pages: Sequence[int]
    planes: Sequence[int]
    total: int
    notes: tuple[str, ...] = ()


def is_imagej(text: str) -> bool:
    """Return whether a description is in ImageJ's dialect."""
    return text.startswith(("ImageJ=", "SCIFIO=")) or "\nimages=" in text


def is_json(text: str) -> bool:
    """Return whether a description is in tifffile's dialect."""
    return text.startswith("{") and '"shape":' in text


def sections_declared(data: bytes) -> int | None:
    """Count the sections that a description of ImageJ or tifffile declares.

    Parameters
    ----------
    data : bytes
        The tag's value.

    Returns
    -------
    int or None
        None where it declares none, or is damaged.
    """
    text = data.rstrip(b"\0").decode("latin-1")
    if is_imagej(text):
        counts = [
            int(n) for key in _IMAGEJ_COUNTS for n in re.findall(rf"^{key}=(\d{{1,9}})\s*$", text, re.M)[:1]
        ]
        return counts[0] if counts else None
    if is_json(text) and (shape := re.search(r'"shape": *\[([\d, ]{1,200})\]', text)):
        sizes = [int(size) for size in shape[1].split(",") if size.strip()]
        return prod(sizes[:-2])
    return None


def declared(
    texts: Sequence[str],
    resolution: Resolution,
    otherwise: Found,
    selection: Selection,
    *,
    pages: Sequence[int],
    height: int,
    width: int,
) -> Declaration:
    """Find out what the pages of one series declare.

    Parameters
    ----------
    texts : sequence of str
        The image descriptions of the first page.
    resolution : Resolution
        Of the first page.
    otherwise : Found
        The pixel size where the description has none.
    selection : Selection
        What is wanted.
    pages : sequence of int
        Those of the series.
    height, width : int
        Of each page.

    Returns
    -------
    Declaration
        For a series without a description, each page is a section.

    Raises
    ------
    ImageError
        If the description is damaged, does not fit the pages, or declares more than a stack of sections, of which
        nothing was chosen.
    """
    for text in texts:
        if is_imagej(text):
            return _from_imagej(text, resolution, otherwise, selection, pages, height, width)
    for text in texts:
        if is_json(text):
            return _from_json(text, otherwise, selection, pages, height, width)
    sizes = {"I": len(pages)}
    info, planes = stack_of(sizes, height, width, "tiff", otherwise.size, selection)
    return Declaration(info, pages, planes, len(pages), otherwise.notes)


def each_a_section(
    texts: Sequence[str],
    resolution: Resolution,
    otherwise: Found,
    selection: Selection,
    *,
    pages: Sequence[int],
    height: int,
    width: int,
) -> Declaration:
    """Take pages for the sections of a stack, each of which describes itself as one; see `declared`."""
    found, kind = otherwise, "tiff"
    for text in texts:
        if is_imagej(text):
            found, kind = settle(from_imagej(_lines(text), resolution), otherwise), "imagej"
    info, planes = stack_of({"I": len(pages)}, height, width, kind, found.size, selection)
    note = f"{len(pages)} pages that were written one by one, each as an image of its own, were taken for one stack"
    return Declaration(info, pages, planes, len(pages), (note, *found.notes))


def stack_of(
    sizes: Mapping[str, int],
    height: int,
    width: int,
    kind: Any,
    pixel_size: PixelSize | None,
    selection: Selection,
) -> tuple[StackInfo, range]:
    """Choose the stack among the planes of a file.

    Parameters
    ----------
    sizes : mapping of str to int
        Length of each axis besides Y and X; planes are numbered along the last one first.
    height, width : int
        Of each plane.
    kind : str
        The flavour of TIFF.
    pixel_size : PixelSize or None
        Of the stack.
    selection : Selection
        What is wanted.

    Returns
    -------
    (StackInfo, range)
        The stack, and the planes of its sections.

    Raises
    ------
    ImageError
        If a channel or time point has to be chosen, or is not there.
    """
    if min(sizes.values(), default=1) < 1:
        raise ImageError(f"the description declares {_listed(sizes)}; {COPY}")
    chosen = {}
    for axis, name, wanted in (("C", "channel", selection.channel), ("T", "time", selection.time)):
        size = sizes.get(axis, 1)
        if wanted is not None and not 0 <= wanted < size:
            there = f"{name} 0 to {size - 1}" if size > 1 else f"{name} 0 alone"
            raise ImageError(f"has no {name} {wanted}; expected {there}")
        if wanted is not None:
            chosen[axis] = wanted
    stacked = {axis: size for axis, size in sizes.items() if size > 1 and axis not in chosen}
    if len(stacked) > 1 or stacked.keys() & set("CS"):
        raise _more_than_a_stack(stacked)
    step, count, start, stride = 1, 1, 0, 1
    for axis, size in reversed(list(sizes.items())):
        start += chosen.get(axis, 0) * stride
        if axis in stacked:
            step, count = stride, size
        stride *= size
    shape, axes = (*stacked.values(), height, width), "".join((*stacked, "YX"))
    info = StackInfo(shape=shape, axes=axes, kind=kind, pixel_size=pixel_size)
    return info, range(start, start + count * step, step)


def mismatch(sections: int, pages: int) -> ImageError:
    """Return the error for a description that declares another number of sections than there are pages."""
    said = (
        f"the description declares {sections} section{'s'[: sections != 1]}, but the file has {pages} pages"
    )
    if sections < pages:
        return ImageError(
            f"{said}; it describes something else; save the stack again, with its own description"
        )
    return ImageError(f"{said}; it is truncated, or was cut without its description; export it again")


def _more_than_a_stack(stacked: Mapping[str, int]) -> ImageError:
    flags = {"C": "--channel", "T": "--time"}
    needed = [axis for axis in "CT" if axis in stacked]
    if "T" in needed and len(stacked) - len(needed) == 0:  # then time is the axis of the sections
        needed.remove("T")
    if "S" in stacked or len(stacked) - len(needed) > 1:
        return ImageError(f"found axes {_listed(stacked)} besides Y and X; {ONE_AXIS}")
    ways = " and ".join(f"{flags[axis]} 0 to {stacked[axis] - 1}" for axis in needed)
    found = (
        f"{_listed(stacked)} channels"
        if set(stacked) == {"C"}
        else f"axes {_listed(stacked)} besides Y and X"
    )
    return ImageError(f"found {found}; expected one stack of sections; choose with {ways}")


def _from_imagej(
    text: str,
    resolution: Resolution,
    otherwise: Found,
    selection: Selection,
    pages: Sequence[int],
    height: int,
    width: int,
) -> Declaration:
    fields = _lines(text)
    try:
        sizes = {
            axis: int(fields.get(key, 1))
            for axis, key in zip("TZC", ("frames", "slices", "channels"), strict=True)
        }
        images = int(fields.get("images", prod(sizes.values())))
    except ValueError as error:
        raise ImageError(f"the ImageJ description is damaged ({error}); {COPY}") from error
    if not fields.keys() & set(_IMAGEJ_COUNTS):  # as of a single slice, but nothing is declared
        images = len(pages)
    if prod(sizes.values()) == 1 and images > 1:
        sizes["I"] = images
    if prod(sizes.values()) != images:
        raise ImageError(f"the ImageJ description declares {images} images, but {_listed(sizes)}; {COPY}")
    found = settle(from_imagej(fields, resolution), otherwise)
    info, planes = stack_of(sizes, height, width, "imagej", found.size, selection)
    return Declaration(info, _pages_of(images, pages), planes, images, found.notes)


def _from_json(
    text: str, found: Found, selection: Selection, pages: Sequence[int], height: int, width: int
) -> Declaration:
    try:
        fields = json.loads(text)
        shape = [int(size) for size in fields["shape"]]
        axes = str(fields.get("axes", "")) or "Q" * len(shape)
        if len(axes) != len(shape):
            raise ValueError(f"axes {axes} for {len(shape)} dimensions")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ImageError(f"the description of the shape is damaged ({error}); {COPY}") from error
    sizes = [size for size in shape if size != 1]
    image = [size for size in (height, width) if size != 1]
    if sizes[len(sizes) - len(image) :] != image:
        raise ImageError(
            f"the description declares shape {shape}, but pages are {width} x {height} px; {COPY}"
        )
    leading = [(axis, size) for axis, size in zip(axes, shape, strict=True) if size != 1]
    leading = leading[: len(sizes) - len(image)]
    if len({axis for axis, _ in leading}) < len(leading):
        listed = ", ".join(f"{axis}={size}" for axis, size in leading)
        raise ImageError(f"found axes {listed} besides Y and X; {ONE_AXIS}")
    info, planes = stack_of(dict(leading), height, width, "tiff", found.size, selection)
    total = prod(size for _, size in leading)
    return Declaration(info, _pages_of(total, pages), planes, total, found.notes)


def _pages_of(total: int, pages: Sequence[int]) -> Sequence[int]:
    # A single page holds all: ImageJ beyond 4 GB, and others that save directories.
    if len(pages) in (total, 1):
        return pages
    raise mismatch(total, len(pages))


def _lines(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _listed(sizes: Mapping[str, int]) -> str:
    order = "TZC"
    known = sorted(sizes, key=lambda axis: order.find(axis))  # whichever runs first in the file
    return ", ".join(f"{axis}={sizes[axis]}" for axis in known)
