"""What the OME-XML of a TIFF declares (https://docs.openmicroscopy.org/ome-model).

Errors raised here do not name the file; whoever opens it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple
from xml.etree import ElementTree

from isbi_infer.errors import ImageError
from isbi_infer.volumes.tiff.description import ONE_AXIS, Declaration, Selection, mismatch, stack_of
from isbi_infer.volumes.tiff.directory import COPY
from isbi_infer.volumes.tiff.scale import Found, from_ome, settle

_ORDER = "XYZCT"


class _Image(NamedTuple):
    name: str
    pixels: ElementTree.Element
    sizes: Mapping[str, int]  # of the axes besides Y and X, the last one runs first

    @property
    def planes(self) -> int:
        return prod(self.sizes.values())


def is_ome(text: str) -> bool:
    """Return whether a description is OME-XML.

    Raises
    ------
    ImageError
        If it breaks off.
    """
    if "<OME" not in text[:4096] and not text.rstrip("\0\n ").endswith("OME>"):
        return False
    if "OME>" not in text[-4096:]:
        raise ImageError(f"the OME-XML description breaks off; {COPY}")
    return True


def declared_by_ome(
    text: str, otherwise: Found, selection: Selection, *, pages: int, sizes: Sequence[tuple[int, int]]
) -> Declaration:
    """Find out what an OME-XML declares.

    Parameters
    ----------
    text : str
        The description of the first page.
    otherwise : Found
        The pixel size where the description has none.
    selection : Selection
        What is wanted.
    pages : int
        How many the file has.
    sizes : sequence of (int, int)
        (Y, X) of each page.

    Returns
    -------
    Declaration
        Images of one plane each and of one size are taken for one stack.

    Raises
    ------
    ImageError
        If the description is damaged, does not fit the pages, or declares several images, channels or time points of
        which none was chosen.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # never in OME-XML, but in attacks on parsers
        raise ImageError("the OME-XML description defines entities; expected plain OME-XML; export it again")
    try:
        # A byte-order mark and what stands before it are no part of the XML.
        root = ElementTree.fromstring(text[max(0, text.find("<")) :])  # noqa: S314 - no entities, nothing to expand
        images = [_image(image, pixels) for image in root for pixels in image if _is_pixels(image, pixels)]
        if not images:
            raise _no_images(root)
        if any(element.get("Namespace", "").endswith("modulo") for element in root.iter()):
            raise ImageError(f"the OME-XML divides an axis further (modulo); {ONE_AXIS}")
        apart = len(images) > 1 and selection.series is None
        if apart and not _each_a_section(images):
            raise _several(images)
        wanted = images if apart else [_chosen(images, selection.series or 0)]
        for image in images if len(images) == 1 else wanted:
            _check_size(image, sizes[0] if len(images) == 1 else None)
        declares = sum(image.planes for image in images)
        if declares != pages:
            raise mismatch(declares, pages)
        order = [page for image in wanted for page in _pages(root, image, pages, alone=len(images) == 1)]
        if len(set(order)) < len(order):
            raise ImageError(f"the OME-XML does not locate each section in a page of its own; {COPY}")
        first = wanted[0]
        height, width = int(first.pixels.attrib["SizeY"]), int(first.pixels.attrib["SizeX"])
        other = next((page for page in order if sizes[page] != (height, width)), None)
        if other is not None:
            found = f"page {other} is {sizes[other][1]} x {sizes[other][0]} px"
            raise ImageError(f"the OME-XML declares {width} x {height} px, but {found}; {COPY}")
        scale = settle(from_ome(first.pixels.attrib), otherwise)
        axes = {"I": len(images)} if apart else first.sizes
        info, planes = stack_of(axes, height, width, "ome", scale.size, selection)
    except (ElementTree.ParseError, ValueError, KeyError, RecursionError) as error:
        raise ImageError(f"the OME-XML description is damaged ({error!r:.80}); {COPY}") from error
    note = f"{len(images)} images of one section each, written one by one, were taken for one stack"
    return Declaration(info, order, planes, len(order), (*((note,) if apart else ()), *scale.notes))


def _image(image: ElementTree.Element, pixels: ElementTree.Element) -> _Image:
    axes = pixels.get("DimensionOrder", _ORDER)
    axes = axes if sorted(axes) == sorted(_ORDER) and axes.startswith("XY") else _ORDER
    return _Image(
        image.get("Name", ""), pixels, {axis: int(pixels.attrib[f"Size{axis}"]) for axis in axes[:1:-1]}
    )


def _is_pixels(image: ElementTree.Element, pixels: ElementTree.Element) -> bool:
    return _named(image, "Image") and _named(pixels, "Pixels")


def _no_images(root: ElementTree.Element) -> ImageError:
    for element in root:
        if _named(element, "BinaryOnly"):
            companion = element.get("MetadataFile", "another file")
            return ImageError(
                f"its description is in {companion}; expected one file; save the stack as a file of its own"
            )
    return ImageError(f"0 OME images; {ONE_AXIS}")


def _each_a_section(images: Sequence[_Image]) -> bool:
    shapes = {(image.pixels.get("SizeY"), image.pixels.get("SizeX")) for image in images}
    return len(shapes) == 1 and all(image.planes == 1 for image in images)


def _several(images: Sequence[_Image]) -> ImageError:
    names = ", ".join(repr(image.name) for image in images[:4])
    return ImageError(
        f"{len(images)} OME images ({names}); expected one; choose with --series 0 to {len(images) - 1}"
    )


def _chosen(images: Sequence[_Image], series: int) -> _Image:
    if not 0 <= series < len(images):
        there = f"series 0 to {len(images) - 1}" if len(images) > 1 else "series 0 alone"
        raise ImageError(f"has no series {series}; expected {there}")
    return images[series]


def _check_size(image: _Image, size: tuple[int, int] | None) -> None:
    height, width = int(image.pixels.attrib["SizeY"]), int(image.pixels.attrib["SizeX"])
    if size is not None and size != (height, width):
        declares = f"{width} x {height} px"
        raise ImageError(f"the OME-XML declares {declares}, but pages are {size[1]} x {size[0]} px; {COPY}")


def _pages(root: ElementTree.Element, image: _Image, pages: int, *, alone: bool) -> list[int]:
    """Find the page of each plane from the TiffData elements."""
    strides, stride = {}, 1
    for axis, size in reversed(list(image.sizes.items())):
        strides[axis], stride = stride, stride * size
    order: dict[int, int] = {}
    total = 0
    for data in (element for element in image.pixels if _named(element, "TiffData")):
        for other in (element for element in data if _named(element, "UUID")):
            if root.get("UUID") not in (None, other.text):
                name = other.get("FileName", "another file")
                raise ImageError(f"the OME stack continues in {name}; expected one file; save it as one")
        first = sum(int(data.get(f"First{axis}", 0)) * strides[axis] for axis in "TZC")
        page = int(data.get("IFD", 0))
        every = 1 if "IFD" in data.attrib else image.planes
        count = int(data.get("PlaneCount", data.get("NumPlanes", every)))
        total += count
        if total > image.planes:
            break
        order.update((first + step, page + step) for step in range(count))
    if total != image.planes or sorted(order) != list(range(image.planes)):
        raise ImageError(f"the OME-XML declares {image.planes} sections, but locates {total}; {COPY}")
    found = [order[plane] for plane in range(image.planes)]
    if len(set(found)) < len(found) or not all(0 <= page < pages for page in found):
        raise ImageError(f"the OME-XML does not locate each section in a page of its own; {COPY}")
    if alone and sorted(found) != list(range(pages)):
        raise ImageError(f"the OME-XML does not locate each section in a page of its own; {COPY}")
    return found


def _named(element: ElementTree.Element, name: str) -> bool:
    return element.tag.rpartition("}")[2] == name
