"""Scores of a result against labels, where the packages for it are installed.

Scoring lives above this package, so it is not imported: it is found through an entry point of the same
distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from isbi_infer.errors import DependencyError
from isbi_infer.terminal import require_packages

GROUP, NAME = "isbi_infer.scorers", "thinned"


class Scorer(Protocol):
    """Scores a stack that was written, against labels that are read already."""

    def __call__(self, prediction: Path, *, membrane: bool) -> dict[str, Any]:
        """Return the scores as plain types; `membrane` is true where 1 means membrane in the stack."""
        ...


def open_scorer(labels: Path, shape: tuple[int, ...]) -> Scorer:
    """Find the scorer and let it read the labels, so that what is wrong with them shows before any work.

    Parameters
    ----------
    labels : Path
        A TIFF; above zero = cell, zero = membrane.
    shape : tuple of int
        Of the stack that will be segmented.

    Returns
    -------
    Scorer

    Raises
    ------
    DependencyError
        If the ``scores`` extra is not installed.
    ImageError
        If the labels cannot be read, or are not those of the stack.
    """
    require_packages("scores", "numba", "skimage")
    found = entry_points(group=GROUP, name=NAME)
    if not found:
        raise DependencyError(
            f"no entry point {GROUP}:{NAME} is installed; run: pip install 'isbi-infer[scores]'"
        )
    (entry, *_) = found
    scorer: Scorer = entry.load()(labels, shape)
    return scorer


def summary(scores: Mapping[str, Any]) -> str:
    """Return the scores in two lines of text.

    Parameters
    ----------
    scores : mapping
        What a `Scorer` gave; None where a score is undefined.

    Returns
    -------
    str
    """
    rand, info = (
        f"{name} {_number(scores[f'{key}_thin'], 6)} (threshold {_number(scores[f'best_threshold_{kind}'], 1)})"
        for name, key, kind in (("V_rand", "v_rand", "rand"), ("V_info", "v_info", "info"))
    )
    error, membrane, cell = (_number(scores[key], 4) for key in ("pixel_error", "dice_membrane", "dice_cell"))
    return (
        f"{rand}, {info}, after thinning\npixel error {error}, Dice {membrane} (membrane) and {cell} (cell)"
    )


def _number(value: float | None, digits: int) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"
