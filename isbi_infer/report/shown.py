"""A small picture of a result where a notebook shows one."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError
from isbi_infer.pixels.probability import Emit, decode
from isbi_infer.report.pictures import Grey, evenly, png, whole
from isbi_infer.report.sheets import contact_sheet
from isbi_infer.terminal import counted, require_packages


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A picture that a notebook draws below the cell that returns it.

    Attributes
    ----------
    picture : ndarray of uint8, shape (Y, X, 3)
        Red, green and blue.
    text : str
        What it shows.
    """

    picture: Grey
    text: str

    def _repr_png_(self) -> bytes:
        return png(self.picture)

    def _repr_html_(self) -> str:
        address = base64.b64encode(self._repr_png_()).decode()
        return f'<img alt="{self.text}" src="data:image/png;base64,{address}" style="max-width: 100%">'

    def __repr__(self) -> str:
        return f"<{self.text}>"


def show(
    image: npt.ArrayLike,
    probability: npt.ArrayLike,
    *,
    threshold: float = 0.5,
    emit: Emit = "cell",
    sections: int = 3,
) -> Shown:
    """Show sections with their membranes outlined, each beside its probabilities, in a notebook.

    Parameters
    ----------
    image : array_like, shape (Y, X) or (Z, Y, X)
        Grey values, as `isbi_infer.Segmenter` took them.
    probability : array_like of float32 or uint8, same shape
        What it returned: probabilities, or round(255 p).
    threshold : float
        Outlines are drawn where the probability of cell crosses it.
    emit : {"cell", "membrane"}
        What 1 means.
    sections : int
        How many at most, spread evenly with the first and the last.

    Returns
    -------
    Shown
        Drawn by Jupyter and the like; ``picture`` is the array.

    Raises
    ------
    ImageError
        If the two are not of one shape.
    DependencyError
        If the ``report`` extra is not installed.

    Examples
    --------
    >>> from isbi_infer import Segmenter, show
    >>> from isbi_infer.sample import synthetic_stack
    >>> stack_ZYX, _ = synthetic_stack(sections=2, height=128, width=128)
    >>> show(stack_ZYX, Segmenter(provider="cpu")(stack_ZYX)).picture.dtype
    dtype('uint8')
    """
    require_packages("report", "PIL")
    image_ZYX, found_ZYX = np.asarray(image), np.asarray(probability)
    if image_ZYX.shape != found_ZYX.shape or image_ZYX.ndim not in (2, 3) or not image_ZYX.size:
        raise ImageError(
            f"the image is {image_ZYX.shape}, its probabilities are {found_ZYX.shape}; expected a section (Y, X) or a "
            "stack (Z, Y, X), and the result of that very one"
        )
    if image_ZYX.ndim == 2:
        image_ZYX, found_ZYX = image_ZYX[None], found_ZYX[None]
    total, shape = len(image_ZYX), (image_ZYX.shape[1], image_ZYX.shape[2])
    chosen = evenly(total, max(1, sections))
    some = counted(total, "section") if len(chosen) == total else f"{len(chosen)} of {total} sections"
    text = f"{some}, outlined at {threshold:.2g}"
    pairs = ((z, whole(image_ZYX[z]), whole(_cell(found_ZYX[z], emit))) for z in chosen)
    return Shown(contact_sheet(pairs, shape, title=text, threshold=threshold), text)


def _cell(stored_YX: npt.NDArray[Any], emit: Emit) -> npt.NDArray[np.float32]:
    probability_YX = decode(stored_YX)
    return probability_YX if emit == "cell" else np.float32(1) - probability_YX
