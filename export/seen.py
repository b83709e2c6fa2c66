"""What a network sees of a section: its tissue, and that of its neighbours in the stack, as inference shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.normalise import Statistics
from isbi_infer.plan.neighbours import around
from isbi_infer.plan.tiles import SectionPlan, Tile, read_mirrored
from isbi_infer.run.tissue import Tissue, stand_ins


def seen_in(stack: Sequence[Tissue], neighbours: int) -> list[tuple[Tissue, ...]]:
    """Return what a network sees of each section of a stack: the section in the middle of its neighbours."""
    return [tuple(stack[other] for other in around(z, len(stack), neighbours)) for z in range(len(stack))]


def gathered(
    seen: Sequence[Tissue], plan: SectionPlan, tile: Tile
) -> tuple[npt.NDArray[Any], tuple[Statistics, ...]]:
    """Return what a tile reads of the sections that a network sees, and by what each is normalised.

    Parameters
    ----------
    seen : sequence of Tissue
        From `seen_in`, of a section that is not blank.
    plan : SectionPlan
        Of the section.
    tile : Tile
        One of the plan's.

    Returns
    -------
    (ndarray of shape (C, Y, X), tuple of Statistics)
        Grey values as stored.
    """
    shown = [seen[place] for place in stand_ins([tissue.found for tissue in seen])]
    pixels = [read_mirrored(tissue.pixels_YX, plan.pad, tile.reads) for tissue in shown]
    return np.stack(pixels), tuple(tissue.statistics for tissue in shown)
