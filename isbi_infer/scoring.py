"""Scores of a result against labels, where the packages for it are installed.

Scoring lives above this package, so it is not imported: it is found through an entry point of the same
distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import DependencyError
from isbi_infer.terminal import require_packages
from isbi_infer.terminal.labels import LabelsAre
from isbi_infer.volumes.protocol import Block

GROUP, NAME = "isbi_infer.scorers", "thinned"


class Scorer(Protocol):
    """Scores the sections of a result, as they are written, against labels that are checked already."""

    def add(self, z: int, result_YX: npt.NDArray[Any]) -> None:
        """Take section `z` as it is stored, float32 or round(255 p); each once, in any order."""

    def scores(self) -> dict[str, Any]:
        """Return the scores as plain types, after all sections; None where a score is undefined."""

    def errors(
        self, z: int, result_YX: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None:
        """Return where section `z`, as it is stored, is split and where merged; None where nobody annotated it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ScoringSink:
    """Hands what a run writes to a scorer, and counts it; a `isbi_infer.volumes.protocol.Sink` of whole sections.

    Parameters
    ----------
    scorer : Scorer
        It stays open.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.sections = 0  # handed over so far

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        """Hand over the sections of a block."""
        for z, section_YX in zip(range(*block.z), values_ZYX, strict=True):
            self._scorer.add(z, section_YX)
        self.sections += len(values_ZYX)

    def finish(self) -> tuple[str, ...]:
        """Return no notes: those of the scores come with them."""
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def open_scorer(
    labels: Path,
    shape: tuple[int, ...],
    *,
    membrane: bool,
    labels_are: LabelsAre = "cells",
    ignore: float | None = None,
) -> Scorer:
    """Find the scorer and let it check the labels, so that what is wrong with them shows before any work.

    Parameters
    ----------
    labels : Path
        A TIFF.
    shape : tuple of int
        Of the stack that will be segmented.
    membrane : bool
        Whether 1 will mean membrane in the result.
    labels_are : {"cells", "membranes", "ids"}
        What labels above 0 mark; ids are the segments that splits and mergers are counted of.
    ignore : float, optional
        Value of labels that marks what nobody knows.

    Returns
    -------
    Scorer
        To be used in a ``with`` statement, which ends its threads.

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
    scorer: Scorer = entry.load()(labels, shape, membrane=membrane, labels_are=labels_are, ignore=ignore)
    return scorer


def summary(scores: Mapping[str, Any]) -> str:
    """Return the scores in two lines of text.

    Parameters
    ----------
    scores : mapping
        What a `Scorer` returned; None where a score is undefined.

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
