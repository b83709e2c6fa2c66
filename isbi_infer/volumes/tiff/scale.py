"""How large a TIFF says that its pixels are: in its description or in its resolution tags.

What stands there and is not understood becomes a note, never silence. Resolutions for printing (72 dpi), the unit
"none" and the unit "pixel" are no sizes of anything imaged, and no note is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import NamedTuple

from isbi_infer.volumes.pixel_size import PLAUSIBLE_NM, PixelSize, in_nm, is_length, is_pixel

_RESOLUTION_UNITS = {2: "inch", 3: "cm", 4: "mm", 5: "um"}
# A plain resolution that is coarser is one for printing (72 dpi is 353 um), not the size of anything imaged.
_COARSEST_PLAIN_NM = 20_000.0
_SMALLEST_PRINTERS_UNIT_NM = 1e6  # mm, cm and inch
_ASK = "not taken; give --pixel-size"


class Found(NamedTuple):
    """A pixel size, and what has to be said about it.

    Attributes
    ----------
    size : PixelSize or None
        None where there is none, or none that is understood.
    notes : tuple of str
        One sentence each.
    """

    size: PixelSize | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """The TIFF tags XResolution, YResolution and ResolutionUnit, as they stand.

    Attributes
    ----------
    x, y : object
        Pixels per unit: numerator and denominator, or a number where a writer chose another type.
    unit : object
        1 none, 2 inch, 3 centimetre.
    """

    x: object = None
    y: object = None
    unit: object = None

    @property
    def unit_name(self) -> str:
        """The unit's name; empty where it is none."""
        return _RESOLUTION_UNITS.get(int(self.unit), "") if isinstance(self.unit, int) else ""

    def __str__(self) -> str:
        return " x ".join(
            "/".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
            if isinstance(value, tuple)
            else f"{value:g}"
            if isinstance(value, float)
            else str(value)
            for value in (self.x, self.y)
        )


def settle(*found: Found) -> Found:
    """Take the first that has a size; where none has, all notes count.

    Parameters
    ----------
    *found : Found
        What is said in several places, the most trusted one first.
    """
    for each in found:
        if each.size is not None:
            return each
    return Found(None, tuple(dict.fromkeys(note for each in found for note in each.notes)))


def from_tags(resolution: Resolution) -> Found:
    """Read the resolution tags by themselves.

    Parameters
    ----------
    resolution : Resolution
        Of the first page.
    """
    unit = resolution.unit_name
    if not unit or (resolution.x is None and resolution.y is None):
        return Found()
    size = _by_resolution(resolution, unit)
    if size is None:
        return Found(
            None, (f"the resolution tags hold {resolution} pixels per {unit}, no pixel size: {_ASK}",)
        )
    return Found(None if max(size.y_nm, size.x_nm) > _COARSEST_PLAIN_NM else size)


def from_imagej(fields: Mapping[str, str], resolution: Resolution) -> Found:
    """Read ImageJ's lines: the units stand in the description, pixels per unit in the resolution tags.

    Where the tags name a unit of their own, the one of the two that makes a size of microscopy counts; if both do or
    none does, that of the description, except for "um" beside centimetres, which ImageJ itself takes for
    pixels per centimetre.

    Parameters
    ----------
    fields : mapping of str to str
        The lines, by key.
    resolution : Resolution
        Of the first page.
    """
    unit = fields.get("unit", "").strip()
    if not unit or is_pixel(unit):
        return Found()
    spacing = fields.get("spacing", "").strip().removeprefix("-")  # ImageJ itself drops the sign
    z_nm = in_nm(spacing, fields.get("zunit", unit))
    if not is_length(unit):
        return Found(
            None, (f"the file holds {resolution} pixels per {unit!r}, a unit that is not known: {_ASK}",)
        )
    y_unit = fields.get("yunit", "").strip() or unit  # ImageJ writes it where it is another one
    units = repr(unit) if y_unit == unit else f"{unit!r} along x and {y_unit!r} along y"
    size = _by_resolution(resolution, unit, z_nm, y_unit=y_unit)
    if size is None:
        said = "no resolution" if resolution.x is None and resolution.y is None else str(resolution)
        return Found(None, (f"the file holds {said} as pixels per {units}, no pixel size: {_ASK}",))
    if max(size.y_nm, size.x_nm) > _COARSEST_PLAIN_NM and (in_nm(1, unit) or 0) >= _SMALLEST_PRINTERS_UNIT_NM:
        return Found()
    other = _by_resolution(resolution, resolution.unit_name, z_nm)
    if other is None or other == size:
        return Found(size)
    as_imagej = resolution.unit == 3 and in_nm(1, unit) == 1000.0
    if _plausible(other) and (as_imagej or not _plausible(size)):
        size, other = other, size
    said = f"pixels per {units} in the description and per {resolution.unit_name} in the tags"
    return Found(size, (f"the file counts {said}: taken for {size}, not for {other}",))


def from_ome(pixels: Mapping[str, str]) -> Found:
    """Read the attributes PhysicalSizeX, Y and Z of OME-XML, and their units.

    Parameters
    ----------
    pixels : mapping of str to str
        The attributes of the element Pixels.
    """
    sizes = {axis: pixels.get(f"PhysicalSize{axis}", "") for axis in "YXZ"}
    units = {axis: pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "YXZ"}
    if not (sizes["Y"] or sizes["X"]) or all(is_pixel(units[axis]) for axis in "YX"):
        return Found()
    size = _pixel_size(*(in_nm(sizes[axis], units[axis]) for axis in "YXZ"))
    if size is None:
        said = " x ".join(f"{sizes[axis] or 'nothing'} {units[axis]}" for axis in "XY")
        return Found(None, (f"the OME-XML says that a pixel is {said}, which is not understood: {_ASK}",))
    return Found(size)


def _by_resolution(
    resolution: Resolution, unit: str, z_nm: float | None = None, *, y_unit: str = ""
) -> PixelSize | None:
    y_nm, x_nm = (
        None if (pixels := number(value)) is None else in_nm(1 / pixels, own_unit)
        for value, own_unit in ((resolution.y, y_unit or unit), (resolution.x, unit))
    )
    return _pixel_size(y_nm, x_nm, z_nm)


def number(value: object) -> Fraction | None:
    """Read a resolution of any numeric type; None for what is no positive number."""
    match value:
        case (int(pixels), int(units)) if pixels * units > 0:
            return Fraction(pixels, units)
        case (single,):  # as tifffile leaves LONG and FLOAT, which TIFF 6.0 does not provide for here
            return number(single)
        case int(pixels) if pixels > 0:
            return Fraction(pixels)
        case float(pixels) if pixels > 0 and isfinite(pixels):
            return Fraction(pixels)
    return None


def _plausible(size: PixelSize) -> bool:
    smallest, largest = PLAUSIBLE_NM
    return smallest <= min(size.y_nm, size.x_nm) and max(size.y_nm, size.x_nm) <= largest


def _pixel_size(y_nm: float | None, x_nm: float | None, z_nm: float | None) -> PixelSize | None:
    return None if y_nm is None or x_nm is None else PixelSize(y_nm=y_nm, x_nm=x_nm, z_nm=z_nm)
