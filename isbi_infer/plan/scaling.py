"""Whether a run's sections are resampled to the model's pixel size, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

from isbi_infer.errors import UsageError
from isbi_infer.volumes.pixel_size import PLAUSIBLE_NM, SAME, PixelSize, in_nm

_PLAUSIBLE = 8.0  # a file that says more than this many times the model's size, or less, is taken to be wrong
_FAR = 2.0  # beyond, a note says what it costs
_OTHER_UNITS = {
    "um": "micrometres",
    "mm": "millimetres",
    "m": "metres",
    "pm": "picometres",
    "angstrom": "ångströms",
}


@dataclass(frozen=True, slots=True)
class Scaling:
    """How much larger a section is at the model's pixel size.

    Attributes
    ----------
    y, x : float
        The section's pixel size over the model's.
    """

    y: float
    x: float

    def inner_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return a section's (Y, X) at the model's pixel size."""
        return max(1, round(shape[0] * self.y)), max(1, round(shape[1] * self.x))


def choose_scaling(
    model_nm: float | None, given_nm: float | None, found: PixelSize | None, *, stored: bool = False
) -> tuple[Scaling | None, tuple[str, ...]]:
    """Decide whether sections are resampled, and the notes about it.

    Parameters
    ----------
    model_nm : float or None
        Side of a pixel in the model's training data.
    given_nm : float or None
        The user's own figure for the sections.
    found : PixelSize or None
        What the file holds; used where the user passes none.
    stored : bool
        Whether the sections come from a file, which could hold their size, and not from an array.

    Returns
    -------
    (Scaling or None, tuple of str)
        None where sections go in as they are; notes.

    Raises
    ------
    UsageError
        If the user's size is not that of a section, or the model's is not known.
    """
    if given_nm is not None:
        check_pixel_size(given_nm)
    if model_nm is None:
        if given_nm is None:
            return None, ()
        raise UsageError("the model does not know its own pixel size, so nothing can be resampled to it")
    if given_nm is None and found is None:
        said = f"the file does not say how large a pixel is: taken for the model's {model_nm:g} nm"
        return None, ((f"{said}; give --pixel-size if it is another",) if stored else ())
    y_nm, x_nm = (found.y_nm, found.x_nm) if found else (model_nm, model_nm)
    if given_nm is not None:
        y_nm = x_nm = given_nm
    scaling = scaling_between(model_nm, y_nm, x_nm)
    if scaling is None:
        return None, ()
    size = f"{y_nm:g} nm" if y_nm == x_nm else f"{y_nm:g} nm (y) x {x_nm:g} nm (x)"
    factors = (scaling.y, scaling.x)
    if given_nm is None and not all(1 / _PLAUSIBLE <= s <= _PLAUSIBLE for s in factors):
        return None, (
            f"the file says that a pixel is {size}, the model's is {model_nm:g} nm: taken to be wrong, and not "
            "resampled; give --pixel-size",
        )
    notes = [f"resampled from {size} to the model's {model_nm:g} nm, and back"]
    if max(factors) > _FAR:
        notes.append(
            f"pixels of {size} are more than {_FAR:g} times the model's: what they do not show stays lost, so thin "
            f"membranes may be missed, and {scaling.y * scaling.x:.3g} times the pixels are computed; train on such "
            "sections if there are labels"
        )
    if min(factors) < 1 / _FAR:
        notes.append(
            f"pixels of {size} are less than half of the model's: detail finer than {model_nm:g} nm is averaged away, "
            "and membranes are placed no better than that; train on such sections if there are labels"
        )
    return scaling, tuple(notes)


def scaling_between(model_nm: float, y_nm: float, x_nm: float) -> Scaling | None:
    """Return how sections of one pixel size are brought to another; None where they are the same within 1 %.

    Parameters
    ----------
    model_nm : float
        Side of a pixel wanted.
    y_nm, x_nm : float
        Of the sections.
    """
    scaling = Scaling(y_nm / model_nm, x_nm / model_nm)
    return None if max(abs(scaling.y - 1), abs(scaling.x - 1)) <= SAME else scaling


def check_pixel_size(given_nm: float) -> None:
    """Check that a pixel size that a user passes is one of sections in which membranes can be seen.

    Parameters
    ----------
    given_nm : float
        Side of a pixel, in nanometres.

    Raises
    ------
    UsageError
        If it is not within 0.5 to 100 nm; the message names the unit that it looks like.
    """
    smallest, largest = PLAUSIBLE_NM
    if smallest <= given_nm <= largest:
        return
    expected = f"a pixel size of {given_nm:g} nm is invalid; expected {smallest:g} to {largest:g} nm"
    for unit, plural in _OTHER_UNITS.items():
        meant_nm = in_nm(given_nm, unit)
        if meant_nm is not None and smallest <= meant_nm <= largest:
            raise UsageError(f"{expected}; did you mean {meant_nm:g} nm? this looks like {plural}")
    raise UsageError(f"{expected}; pass the side of a pixel in nanometres")
