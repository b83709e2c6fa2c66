"""How large a pixel is.

Pixel sizes are nanometres here; files hold them in many units and in three ways: ImageJ (pixels per unit,
and the unit in the description), OME-XML (a size and its unit) and plain TIFF tags (pixels per centimetre).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite

SAME = 0.01  # relative differences below this one are not worth an interpolation
PLAUSIBLE_NM = (0.5, 100.0)  # of sections in which membranes can be seen

_NM = {
    "fm": Fraction(1, 10**6),
    "pm": Fraction(1, 1000),
    "angstrom": Fraction(1, 10),
    "nm": Fraction(1),
    "um": Fraction(10**3),
    "mm": Fraction(10**6),
    "cm": Fraction(10**7),
    "dm": Fraction(10**8),
    "inch": Fraction(25_400_000),
    "thou": Fraction(25_400),
    "pt": Fraction(25_400_000, 72),
    "m": Fraction(10**9),
}
# As they stand in files, after `_spelled`.
_SPELLINGS = {
    **{name: name for name in _NM},
    **dict.fromkeys(("å", "a", "ang", "ångström", "ångstrom", "angström", "angstroem"), "angstrom"),
    **dict.fromkeys(("angstroms", "ångströms", "ångstroms"), "angstrom"),
    **dict.fromkeys(("picometer", "picometers", "picometre", "picometres"), "pm"),
    **dict.fromkeys(("nanometer", "nanometers", "nanometre", "nanometres"), "nm"),
    **dict.fromkeys(("μm", "μ", "mum", "micron", "microns"), "um"),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre", "micrometres"), "um"),
    **dict.fromkeys(("millimeter", "millimeters", "millimetre", "millimetres"), "mm"),
    **dict.fromkeys(("centimeter", "centimeters", "centimetre", "centimetres"), "cm"),
    **dict.fromkeys(("in", "inches", '"'), "inch"),
    **dict.fromkeys(("mil", "mils"), "thou"),
    **dict.fromkeys(("meter", "meters", "metre", "metres"), "m"),
}
_PIXELS = {"", "px", "pix", "pixel", "pixels", "reference frame", "none"}
_SMALLEST_NM, _LARGEST_NM = 1e-4, 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSize:
    """Extent of one pixel in nanometres.

    Attributes
    ----------
    y_nm, x_nm : float
        Within a section.
    z_nm : float or None
        From one section to the next; None where the file does not hold it.
    """

    y_nm: float
    x_nm: float
    z_nm: float | None = None

    def __str__(self) -> str:
        """Return the size within a section, as users read it."""
        x, y = f"{self.x_nm:g}", f"{self.y_nm:g}"
        return f"{x} nm" if x == y else f"{x} x {y} nm"


def with_side(size: PixelSize | None, side_nm: float) -> PixelSize:
    """Return a size with another side of its pixels, and the same distance from one section to the next."""
    return PixelSize(y_nm=float(side_nm), x_nm=float(side_nm), z_nm=size.z_nm if size else None)


def same_size(one: PixelSize | None, other: PixelSize | None) -> bool:
    """Return whether sections of two sizes may be taken for one stack: both unknown, or within 1 % of each other.

    Parameters
    ----------
    one, other : PixelSize or None
        The distance between sections does not matter.
    """
    if one is None or other is None:
        return one is other
    pairs = (one.y_nm, other.y_nm), (one.x_nm, other.x_nm)
    return all(abs(a - b) <= SAME * max(a, b) for a, b in pairs)


def in_nm(size: str | float | Fraction, unit: str) -> float | None:
    r"""Convert a length as it stands in a file.

    Parameters
    ----------
    size : str, float or Fraction
        The number; text is taken exactly, as the decimal that it is.
    unit : str
        The unit in any usual spelling, such as "nm", "µm", "micron", "Å" or "inch", also with letters as escapes
        (``"\u00B5m"``) or in another encoding's letters.

    Returns
    -------
    float or None
        Nanometres, or None for an unknown unit ("pixel" is one), and for what cannot be a pixel's size.
    """
    scale = _NM.get(_SPELLINGS.get(_spelled(unit), ""))
    try:
        rough = float(size)
        # Fraction("1e999999999") would compute that number.
        if scale is None or not isfinite(rough) or not 1e-15 < rough < 1e15:
            return None
        exact = Fraction(size) if isinstance(size, str | Fraction) else Fraction(repr(rough))
    except (ValueError, OverflowError):
        return None
    size_nm = float(exact * scale)
    return size_nm if _SMALLEST_NM <= size_nm <= _LARGEST_NM else None


def is_length(unit: str) -> bool:
    """Return whether `in_nm` knows a unit."""
    return _spelled(unit) in _SPELLINGS


def is_pixel(unit: str) -> bool:
    """Return whether a unit is that of images without a scale, such as "pixel"."""
    return _spelled(unit) in _PIXELS


def _spelled(unit: str) -> str:
    """Bring the spellings of one unit together: escapes, encodings, look-alikes of a letter, upper and lower case."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), unit).strip("\0 \t\r\n")
    for encoding in ("cp1252", "latin-1"):
        try:
            text = text.encode(encoding).decode("utf-8")
            break
        except UnicodeError:
            continue
    # One character for the two that look like a mu, and for the two that look like an A with a ring.
    return unicodedata.normalize("NFKC", text).strip().casefold()


def in_unit(size_nm: float, unit: str) -> float:
    """Convert nanometres to a unit, so that the decimals come back from `in_nm` as they were.

    Parameters
    ----------
    size_nm : float
        A length in nanometres.
    unit : str
        A unit that `in_nm` knows.

    Returns
    -------
    float
        The length in `unit`.
    """
    return float(Fraction(repr(float(size_nm))) / _NM[_SPELLINGS[unit.casefold()]])


def pixels_per(unit: str, size_nm: float) -> tuple[int, int] | None:
    """Express a pixel size as a TIFF resolution.

    Parameters
    ----------
    unit : str
        The unit of the resolution, as `in_nm` knows it.
    size_nm : float
        Extent of a pixel in nanometres.

    Returns
    -------
    (int, int) or None
        Numerator and denominator of pixels per unit; None where 32 bits each (TIFF 6.0, RATIONAL) do not do.
    """
    resolution = _NM[_SPELLINGS[unit.casefold()]] / Fraction(repr(float(size_nm)))
    largest = 2**32 - 1
    if not 1 / largest <= resolution <= largest:
        return None
    if max(resolution.numerator, resolution.denominator) > largest:
        resolution = resolution.limit_denominator(max(1, min(largest, int(largest / resolution))))
    return resolution.numerator, resolution.denominator
