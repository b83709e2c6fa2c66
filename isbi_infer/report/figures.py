"""What the probabilities of each section look like in a few numbers, gathered while a run writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.probability import Emit
from isbi_infer.volumes.protocol import Block

BINS = 64
_LEVELS = 256
_LEVEL = np.arange(_LEVELS) / (_LEVELS - 1)


@dataclass(frozen=True, slots=True, eq=False)
class ProbabilityFigures:
    """Of one section.

    Attributes
    ----------
    total : float
        Sum of the probabilities of cell.
    doubt : float
        Sum of p (1 - p): 0 where the network is sure, 0.25 a pixel where it is not at all.
    pixels : int
        Of the section.
    histogram : ndarray of float32, shape (64,)
        Pixels by probability, from 0 to 1.
    """

    total: float
    doubt: float
    pixels: int
    histogram: npt.NDArray[np.float32]


class FiguresSink:
    """Takes note of what a run writes; an `isbi_infer.volumes.protocol.Sink` of whole sections.

    Parameters
    ----------
    emit : {"cell", "membrane"}
        What 1 means in what is written.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.sections: dict[int, ProbabilityFigures] = {}

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        """Measure the sections of a block."""
        for z, section_YX in zip(range(*block.z), values_ZYX, strict=True):
            self.add(z, section_YX)

    def add(self, z: int, section_YX: npt.NDArray[Any]) -> None:
        """Measure a section as it is stored, float32 or round(255 p)."""
        levels_YX = section_YX
        if section_YX.dtype != np.uint8:
            levels_YX = np.rint(section_YX * np.float32(_LEVELS - 1)).astype(np.uint8)
        counts = np.bincount(levels_YX.ravel(), minlength=_LEVELS)
        if self._emit == "membrane":
            counts = counts[::-1]
        self.sections[z] = ProbabilityFigures(
            total=float(counts @ _LEVEL),
            doubt=float(counts @ (_LEVEL * (1 - _LEVEL))),
            pixels=int(section_YX.size),
            histogram=counts.reshape(BINS, -1).sum(axis=1).astype(np.float32),
        )

    def finish(self) -> tuple[str, ...]:
        """Return no notes."""
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None
