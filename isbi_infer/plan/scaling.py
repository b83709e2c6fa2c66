"""Whether a run's sections are resampled to the model's pixel size, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

from isbi_infer.errors import UsageError
from isbi_infer.volumes.pixel_size import PixelSize

_SAME = 0.01  # relative differences below this one are not worth an interpolation
_PLAUSIBLE = 8.0  # a file that says more than this many times the model's size, or less, is taken to be wrong


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
    model_nm: float | None, given_nm: float | None, found: PixelSize | None
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

    Returns
    -------
    (Scaling or None, tuple of str)
        None where sections go in as they are; notes.

    Raises
    ------
    UsageError
        If the user's size is not positive, or the model's is not known.
    """
    if given_nm is not None and not 0 < given_nm < float("inf"):
        raise UsageError(f"a pixel size of {given_nm} nm is invalid; pass the side of a pixel in nanometres")
    if model_nm is None:
        if given_nm is None:
            return None, ()
        raise UsageError("the model does not know its own pixel size, so nothing can be resampled to it")
    y_nm, x_nm = (found.y_nm, found.x_nm) if found else (model_nm, model_nm)
    if given_nm is not None:
        y_nm = x_nm = given_nm
    scaling = Scaling(y_nm / model_nm, x_nm / model_nm)
    if max(abs(scaling.y - 1), abs(scaling.x - 1)) <= _SAME:
        return None, ()
    size = f"{y_nm:g} nm" if y_nm == x_nm else f"{y_nm:g} x {x_nm:g} nm"
    if given_nm is None and not all(1 / _PLAUSIBLE <= s <= _PLAUSIBLE for s in (scaling.y, scaling.x)):
        return None, (
            f"the file says that a pixel is {size}, the model's is {model_nm:g} nm: taken to be wrong, and not "
            "resampled; give --pixel-size",
        )
    return scaling, (f"resampled from {size} to the model's {model_nm:g} nm, and back",)
