"""How large a pixel is.

Pixel sizes are nanometres here; files hold them in many units and in three ways: ImageJ (pixels per unit,
and the unit in the description), OME-XML (a size and its unit) and plain TIFF tags (pixels per centimetre).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isfinite

_NM = {
    "pm": Fraction(1, 1000),
    "angstrom": Fraction(1, 10),
    "nm": Fraction(1),
    "um": Fraction(10**3),
    "mm": Fraction(10**6),
    "cm": Fraction(10**7),
    "inch": Fraction(25_400_000),
    "m": Fraction(10**9),
}
# As they stand in files, case-folded, which also makes one character of the two that look like a mu.
_SPELLINGS = {
    **{name: name for name in _NM},
    **dict.fromkeys(("å", "a", "ångström", "angstroms", "ångstrom"), "angstrom"),
    **dict.fromkeys(("nanometer", "nanometers", "nanometre", "nanometres"), "nm"),
    **dict.fromkeys(("μm", "μ", "âμm", "\\u00b5m", "micron", "microns"), "um"),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre", "micrometres"), "um"),
    **dict.fromkeys(("millimeter", "millimeters", "millimetre", "millimetres"), "mm"),
    **dict.fromkeys(("centimeter", "centimeters", "centimetre", "centimetres"), "cm"),
    **dict.fromkeys(("in", "inches", '"'), "inch"),
    **dict.fromkeys(("meter", "meters", "metre", "metres"), "m"),
}
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


def in_nm(size: str | float | Fraction, unit: str) -> float | None:
    r"""Convert a length as it stands in a file.

    Parameters
    ----------
    size : str, float or Fraction
        The number; text is taken exactly, as the decimal that it is.
    unit : str
        The unit in any usual spelling, such as "nm", "µm", "micron", ``"\u00B5m"`` or "inch".

    Returns
    -------
    float or None
        Nanometres, or None for an unknown unit ("pixel" is one), and for what cannot be a pixel's size.
    """
    scale = _NM.get(_SPELLINGS.get(unit.strip().casefold(), ""))
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
