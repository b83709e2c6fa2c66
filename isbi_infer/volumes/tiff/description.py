"""What the description of a TIFF declares: how many sections, along which axis, in which order, of what size.

Three dialects are read: ImageJ's lines of ``key=value``, OME-XML (https://docs.openmicroscopy.org/ome-model)
and tifffile's JSON ``{"shape": ...}``. Whatever the dialect, a stack has one axis besides Y and X, and the
file has to hold exactly the sections that are declared.

Errors raised here do not name the file; whoever opens it does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any
from xml.etree import ElementTree

from isbi_infer.errors import ImageError
from isbi_infer.volumes.pixel_size import PixelSize, in_nm
from isbi_infer.volumes.protocol import StackInfo
from isbi_infer.volumes.tiff.directory import COPY

_RESOLUTION_UNITS = {2: "inch", 3: "cm", 4: "mm", 5: "um"}
# A plain resolution that is coarser is one for printing (72 dpi is 353 um), not the size of anything imaged.
_COARSEST_PLAIN_NM = 20_000.0
_ONE_AXIS = "expected one stack of sections or one image; save the wanted part as a file of its own"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The TIFF tags XResolution, YResolution and ResolutionUnit, as they stand.

    Attributes
    ----------
    x, y : object
        Numerator and denominator of pixels per unit, if the file is sound.
    unit : object
        1 none, 2 inch, 3 centimetre.
    """

    x: object = None
    y: object = None
    unit: object = None


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a file declares.

    Attributes
    ----------
    info : StackInfo
        Shape, axes, kind and pixel size.
    order : tuple of int, or None
        The page of each section. None if the file has a single page and the pixels of all sections follow
        each other from there.
    """

    info: StackInfo
    order: tuple[int, ...] | None


def declared(
    texts: Sequence[str], resolution: Resolution, *, pages: int, height: int, width: int
) -> Declaration:
    """Find out what a file declares.

    Parameters
    ----------
    texts : sequence of str
        The image descriptions of the first page.
    resolution : Resolution
        Of the first page.
    pages, height, width : int
        What the file holds.

    Returns
    -------
    Declaration
        For a file without any of the three dialects, each page is a section.

    Raises
    ------
    ImageError
        If the description is damaged, does not fit the pages, or declares more than a stack of sections.
    """
    for text in texts:
        if text.rstrip("\0\n ").endswith("OME>"):
            return _from_ome(text, pages, height, width)
        if "<OME" in text[:4096]:
            raise ImageError(f"the OME-XML description breaks off; {COPY}")
    for text in texts:
        if text.startswith(("ImageJ=", "SCIFIO=")) or "\nimages=" in text:
            return _from_imagej(text, resolution, pages, height, width)
    pixel_size = _plain_pixel_size(resolution)
    for text in texts:
        if text.startswith("{") and '"shape":' in text:
            return _from_json(text, pixel_size, pages, height, width)
    shape, axes = ((pages, height, width), "IYX") if pages > 1 else ((height, width), "YX")
    info = StackInfo(shape=shape, axes=axes, kind="tiff", pixel_size=pixel_size)
    return Declaration(info, tuple(range(pages)))


def _from_imagej(text: str, resolution: Resolution, pages: int, height: int, width: int) -> Declaration:
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        sizes = {
            axis: int(fields.get(key, 1))
            for axis, key in zip("TZC", ("frames", "slices", "channels"), strict=True)
        }
        images = int(fields.get("images", prod(sizes.values())))
    except ValueError as error:
        raise ImageError(f"the ImageJ description is damaged ({error}); {COPY}") from error
    if prod(sizes.values()) == 1 and images > 1:
        sizes["I"] = images
    if prod(sizes.values()) != images:
        raise ImageError(f"the ImageJ description declares {images} images, but {_listed(sizes)}; {COPY}")
    unit = fields.get("unit", "")
    spacing = fields.get("spacing", "").strip().removeprefix("-")  # ImageJ itself drops the sign
    pixel_size = _pixel_size(
        _size_nm(resolution.y, unit), _size_nm(resolution.x, unit), in_nm(spacing, fields.get("zunit", unit))
    )
    if not unit:
        pixel_size = _plain_pixel_size(resolution)
    info = _info(sizes, height, width, "imagej", pixel_size)
    return Declaration(info, _pages_in_order(info.sections, pages))


def _from_json(text: str, pixel_size: PixelSize | None, pages: int, height: int, width: int) -> Declaration:
    try:
        fields = json.loads(text)
        shape = [int(size) for size in fields["shape"]]
        axes = str(fields.get("axes", "")) or "Q" * len(shape)
        if len(axes) != len(shape):
            raise ValueError(f"axes {axes} for {len(shape)} dimensions")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ImageError(f"the description of the shape is damaged ({error}); {COPY}") from error
    found = [size for size in shape if size != 1]
    image = [size for size in (height, width) if size != 1]
    if found[len(found) - len(image) :] != image:
        raise ImageError(
            f"the description declares shape {shape}, but pages are {width} x {height} px; {COPY}"
        )
    leading = [(axis, size) for axis, size in zip(axes, shape, strict=True) if size != 1]
    leading = leading[: len(found) - len(image)]
    if len(leading) > 1:
        listed = ", ".join(f"{axis}={size}" for axis, size in leading)
        raise ImageError(f"found axes {listed} besides Y and X; {_ONE_AXIS}")
    info = _info(dict(leading), height, width, "tiff", pixel_size)
    return Declaration(info, _pages_in_order(info.sections, pages))


def _from_ome(text: str, pages: int, height: int, width: int) -> Declaration:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # never in OME-XML, but in attacks on parsers
        raise ImageError("the OME-XML description defines entities; expected plain OME-XML; export it again")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - without entities there is nothing to expand
        images = [
            (image, pixels)
            for image in root
            for pixels in image
            if _named(image, "Image") and _named(pixels, "Pixels")
        ]
        if len(images) != 1:
            names = ", ".join(repr(image.get("Name", "")) for image, _ in images[:4])
            raise ImageError(f"{len(images)} OME images ({names}); {_ONE_AXIS}")
        if any(element.get("Namespace", "").endswith("modulo") for element in root.iter()):
            raise ImageError(f"the OME-XML divides an axis further (modulo); {_ONE_AXIS}")
        pixels = images[0][1].attrib
        sizes = {axis: int(pixels[f"Size{axis}"]) for axis in "TZC"}
        if (int(pixels["SizeY"]), int(pixels["SizeX"])) != (height, width):
            declares = f"{pixels['SizeX']} x {pixels['SizeY']} px"
            raise ImageError(f"the OME-XML declares {declares}, but pages are {width} x {height} px; {COPY}")
        info = _info(sizes, height, width, "ome", _ome_pixel_size(pixels))
        order = _ome_order(root, images[0][1], info, pages)
    except (ElementTree.ParseError, ValueError, KeyError, RecursionError) as error:
        raise ImageError(f"the OME-XML description is damaged ({error!r:.80}); {COPY}") from error
    return Declaration(info, order)


def _ome_order(
    root: ElementTree.Element, pixels: ElementTree.Element, info: StackInfo, pages: int
) -> tuple[int, ...]:
    """Find the page of each section from the TiffData elements."""
    if info.sections != pages:
        raise _mismatch(info.sections, pages)
    order: dict[int, int] = {}
    total = 0
    for data in (element for element in pixels if _named(element, "TiffData")):
        for other in (element for element in data if _named(element, "UUID")):
            if root.get("UUID") not in (None, other.text):
                name = other.get("FileName", "another file")
                raise ImageError(f"the OME stack continues in {name}; expected one file; save it as one")
        first = sum(int(data.get(f"First{axis}", 0)) for axis in "TZC")
        page = int(data.get("IFD", 0))
        count = int(data.get("PlaneCount", data.get("NumPlanes", 1 if "IFD" in data.attrib else pages)))
        total += count
        if total > info.sections:
            break
        order.update((first + step, page + step) for step in range(count))
    if total != info.sections or sorted(order) != list(range(info.sections)):
        raise ImageError(f"the OME-XML declares {info.sections} sections, but locates {total}; {COPY}")
    if sorted(order.values()) != list(range(pages)):
        raise ImageError(f"the OME-XML does not locate each section in a page of its own; {COPY}")
    return tuple(order[section] for section in range(info.sections))


def _info(
    sizes: dict[str, int], height: int, width: int, kind: Any, pixel_size: PixelSize | None
) -> StackInfo:
    if min(sizes.values(), default=1) < 1:
        raise ImageError(f"the description declares {_listed(sizes)}; {COPY}")
    stacked = {axis: size for axis, size in sizes.items() if size > 1}
    if len(stacked) > 1:
        raise ImageError(f"found axes {_listed(stacked)} besides Y and X; {_ONE_AXIS}")
    if stacked.keys() & set("CS"):
        raise ImageError(f"found {_listed(stacked)} channels; expected greyscale; save one channel alone")
    shape, axes = (*stacked.values(), height, width), "".join((*stacked, "YX"))
    return StackInfo(shape=shape, axes=axes, kind=kind, pixel_size=pixel_size)


def _pages_in_order(sections: int, pages: int) -> tuple[int, ...] | None:
    if pages == sections:
        return tuple(range(pages))
    if pages == 1:  # ImageJ beyond 4 GB, and others that save directories
        return None
    raise _mismatch(sections, pages)


def _mismatch(sections: int, pages: int) -> ImageError:
    return ImageError(
        f"the description declares {sections} section{'s'[: sections != 1]}, but the file has {pages} pages; "
        "it is truncated, or was cut without its description; export it again"
    )


def _named(element: ElementTree.Element, name: str) -> bool:
    return element.tag.rpartition("}")[2] == name


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in sizes.items())


def _size_nm(resolution: object, unit: str) -> float | None:
    match resolution:
        case (int(pixels), int(units)) if pixels > 0 and units > 0:
            return in_nm(Fraction(units, pixels), unit)
    return None


def _pixel_size(y_nm: float | None, x_nm: float | None, z_nm: float | None) -> PixelSize | None:
    return None if y_nm is None or x_nm is None else PixelSize(y_nm=y_nm, x_nm=x_nm, z_nm=z_nm)


def _plain_pixel_size(resolution: Resolution) -> PixelSize | None:
    unit = _RESOLUTION_UNITS.get(resolution.unit, "") if isinstance(resolution.unit, int) else ""
    size = _pixel_size(_size_nm(resolution.y, unit), _size_nm(resolution.x, unit), None)
    return None if size is None or max(size.y_nm, size.x_nm) > _COARSEST_PLAIN_NM else size


def _ome_pixel_size(pixels: dict[str, str]) -> PixelSize | None:
    y_nm, x_nm, z_nm = (
        in_nm(pixels.get(f"PhysicalSize{axis}", ""), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "YXZ"
    )
    return _pixel_size(y_nm, x_nm, z_nm)
