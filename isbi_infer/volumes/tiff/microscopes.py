"""The pixel size that an electron microscope or its camera wrote into tags of its own.

tifffile reads the tags of FEI and Thermo Fisher, Zeiss, Olympus SIS and TVIPS; Gatan's are plain numbers, Tescan's and
JEOL's are text. Where a size stands is known from files and from the readers of Bio-Formats, Gwyddion and RosettaSciIO,
as none of the makers has published it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from isbi_infer.volumes.pixel_size import PixelSize, in_nm
from isbi_infer.volumes.tiff.scale import Found, Resolution, number

ValueOf = Callable[[int], object]

_FEI, _ZEISS, _SIS, _TVIPS, _TESCAN = (34680, 34682), 34118, (33560, 33471), 37706, 50431
_GATAN = (65003, 65004, 65009, 65010)  # unit of x and y, size of x and y
_MAKE = 271
_NAMES = {
    **dict.fromkeys(_FEI, "FEI/Thermo Fisher"),
    34683: "FEI/Thermo Fisher",
    _ZEISS: "Zeiss",
    **dict.fromkeys(_SIS, "Olympus SIS"),
    _TVIPS: "TVIPS",
    _TESCAN: "Tescan",
    51023: "Fibics",
    65027: "JEOL",
}
# Such as "PixelSize=9.9", "Pixel size: 4 nm", "<PixelWidth>4e-9" or '"pixelSpacing": 4'.
_NAMED = re.compile(
    r"(\w*pixel[ _-]?(?:size|width|height|spacing|pitch)\w*)[\"']?[^\S\r\n]*[=:>][^\S\r\n]*"
    r"[\"']?([^\s\"'<>;,=][^\r\n\"'<>;]{0,30})",
    re.IGNORECASE,
)


def find_size(
    codes: Iterator[int] | tuple[int, ...], value_of: ValueOf, resolution: Resolution, width: int
) -> Found:
    """Read the pixel size that a microscope left in the tags of a page.

    Parameters
    ----------
    codes : iterable of int
        Of the page's tags.
    value_of : callable
        Returns a tag's value as tifffile reads it, None where it is missing or not readable.
    resolution : Resolution
        Of the page.
    width : int
        Of the page, in pixels.

    Returns
    -------
    Found
        A note says whose size it is; or, where there is none that is understood, what stands there.
    """
    codes = tuple(codes)
    readers: tuple[tuple[tuple[int, ...], str, Callable[[], PixelSize | None]], ...] = (
        (_FEI, "FEI/Thermo Fisher", lambda: _fei(value_of)),
        ((_ZEISS,), "Zeiss", lambda: _zeiss(value_of(_ZEISS), width)),
        (_SIS, "Olympus SIS", lambda: _sis(value_of)),
        ((_TVIPS,), "TVIPS", lambda: _tvips(value_of(_TVIPS))),
        ((_TESCAN,), "Tescan", lambda: _tescan(_text(value_of(_TESCAN)))),
        (_GATAN, "Gatan", lambda: _gatan(value_of)),
        ((_MAKE,), "JEOL", lambda: _jeol(value_of, resolution)),
    )
    for own, maker, read in readers:
        if any(code in codes for code in own) and (size := read()) is not None:
            return Found(size, (f"the pixel size is the one that the {maker} microscope or camera wrote",))
    return Found(None, tuple(_not_understood(codes, value_of)))


def _not_understood(codes: tuple[int, ...], value_of: ValueOf) -> Iterator[str]:
    for code in codes:
        named = _NAMED.search(_text(value_of(code)))
        where = f"tag {code}{f' ({_NAMES[code]})' if code in _NAMES else ''}"
        if named:
            said = " ".join(f"{named[1]} {named[2]}".split())
            yield f"{where} names a pixel size ({said!r}), which is not understood: not taken; give --pixel-size"
        elif code in _NAMES:
            yield f"{where} holds no pixel size that is understood; give --pixel-size"
    if all(code in codes for code in _GATAN):
        said = " x ".join(
            f"{value_of(size)} {value_of(unit)}" for unit, size in zip(*_gatan_pairs(), strict=True)
        )
        yield f"Gatan's tags hold a pixel size of {said}, which is not understood: not taken; give --pixel-size"


def _gatan_pairs() -> tuple[tuple[int, ...], tuple[int, ...]]:
    return _GATAN[:2], _GATAN[2:]


def _fei(value_of: ValueOf) -> PixelSize | None:
    """Read INI text whose sizes are metres; the section that [Beam] names goes before the others."""
    for code in _FEI:
        sections = value_of(code)
        if not isinstance(sections, Mapping):
            continue
        beam = _part(sections, "Beam")
        for name in ("Scan", str(beam.get("Scan", "")), "EScan", "IScan"):
            scan = _part(sections, name)
            if (size := _size(scan.get("PixelWidth"), scan.get("PixelHeight"), "m")) is not None:
                return size
        image = _part(sections, "Image")
        for name in (str(beam.get("Beam", "")), "EBeam", "IBeam", "IRBeam"):
            field = _part(sections, name)
            width, height = (_metres(field.get(side)) for side in ("HFW", "VFW"))
            columns, rows = (_metres(image.get(side)) for side in ("ResolutionX", "ResolutionY"))
            if width and height and columns and rows:
                return _size(width / columns, height / rows, "m")
    return None


def _zeiss(value: object, width: int) -> PixelSize | None:
    """Read what tifffile makes of SmartSEM's lines: the image's pixel, else that of a display 1024 pixels wide."""
    if not isinstance(value, Mapping):
        return None
    if (size := _zeiss_line(value.get("ap_image_pixel_size"))) is not None:
        return size
    unnamed = value.get("")
    if isinstance(unnamed, tuple) and len(unnamed) > 3 and isinstance(unnamed[3], float):
        return _size(unnamed[3] * 1024 / width, unnamed[3] * 1024 / width, "m")
    return _zeiss_line(value.get("ap_pixel_size"))


def _zeiss_line(line: object) -> PixelSize | None:
    match line:
        case (_, number, str(unit)):
            return _size(number, number, unit)
        case (_, str(text)) if len(parts := text.split()) == 2:
            return _size(parts[0], parts[0], parts[1])
    return None


def _sis(value_of: ValueOf) -> PixelSize | None:
    for code in _SIS:
        value = value_of(code)
        if isinstance(value, Mapping):
            size = _size(value.get("pixelsizex"), value.get("pixelsizey"), "m")
            if size is not None:
                return size
    return None


def _tvips(value: object) -> PixelSize | None:
    return (
        _size(value.get("PixelSizeX"), value.get("PixelSizeY"), "nm") if isinstance(value, Mapping) else None
    )


def _tescan(text: str) -> PixelSize | None:
    x, y = (re.search(rf"^PixelSize{axis}\s*=\s*(\S+)", text, re.MULTILINE) for axis in "XY")
    return None if x is None else _size(x[1], (y or x)[1], "m")


def _gatan(value_of: ValueOf) -> PixelSize | None:
    units, sizes = ([value_of(code) for code in pair] for pair in _gatan_pairs())
    x_nm, y_nm = (
        in_nm(_decimal(size), unit) if isinstance(unit, str) else None
        for size, unit in zip(sizes, units, strict=True)
    )
    return None if x_nm is None or y_nm is None else PixelSize(y_nm=y_nm, x_nm=x_nm)


def _jeol(value_of: ValueOf, resolution: Resolution) -> PixelSize | None:
    """Read SightX's XML: the tags hold the size of the camera's pixels, the XML the magnification."""
    text = _text(value_of(270)).strip("\0\1 \r\n\t")
    if "JEOL" not in _text(value_of(_MAKE)) or not text.startswith("<") or "<!" in text:
        return None
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - without entities there is nothing to expand
        found = {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in root.iter()}
        magnification = float(found["SelectorValue"])
    except (ElementTree.ParseError, ValueError, KeyError):
        return None
    x, y = number(resolution.x), number(resolution.y)
    if found.get("EosMode") != "eosTEM" or found.get("ModeString") != "MAG" or x is None or y is None:
        return None
    if not 0 < magnification < float("inf") or not resolution.unit_name:
        return None
    return _size(float(1 / x) / magnification, float(1 / y) / magnification, resolution.unit_name)


def _part(sections: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = sections.get(name)
    return part if isinstance(part, Mapping) else {}


def _size(x: object, y: object, unit: str) -> PixelSize | None:
    x_nm, y_nm = in_nm(_decimal(x), unit), in_nm(_decimal(y), unit)
    return None if x_nm is None or y_nm is None else PixelSize(y_nm=y_nm, x_nm=x_nm)


def _decimal(value: object) -> str:
    """Write a number as `in_nm` reads it, also with the comma of some countries."""
    text = repr(value) if isinstance(value, float) else str(value).strip()
    return text if "." in text else text.replace(",", ".")


def _metres(value: object) -> float:
    try:
        return float(_decimal(value))
    except ValueError:
        return 0.0


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value[:65536].replace(b"\0", b"").decode("latin-1")
    return value[:65536] if isinstance(value, str) else ""
