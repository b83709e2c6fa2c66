"""Sections on their way: their symmetric views, the views' tiles, and what is still to come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.geometry import Plan, Tile, read_mirrored
from isbi_infer.normalise import intensity_statistics, normalise
from isbi_infer.symmetry import Symmetry

Section = npt.NDArray[Any]
Result = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is laid out.

    Attributes
    ----------
    plan : callable
        From a section's shape, and how often tiles were halved for lack of memory, to its tiles.
    batch : callable
        From a plan to the number of tiles computed at once.
    lanes : int
        Threads that compute.
    symmetries : tuple of Symmetry
        Views of a section whose results are averaged; the identity alone for a plain run.
    fixed_batch : bool
        Fill up the last batch, for devices on which each new shape costs much.
    """

    plan: Callable[[tuple[int, int], int], Plan]
    batch: Callable[[Plan], int]
    lanes: int
    symmetries: tuple[Symmetry, ...]
    fixed_batch: bool = False


class View:
    """One symmetric view of a section on its way through the tiles."""

    def __init__(self, section_YX: Section, symmetry: Symmetry, settings: Settings, halvings: int) -> None:
        self.section_YX = symmetry.apply(section_YX)
        self.symmetry = symmetry
        self.statistics = intensity_statistics(section_YX)
        self.plan = settings.plan((self.section_YX.shape[0], self.section_YX.shape[1]), halvings)
        self.out_YX = np.empty(self.section_YX.shape, np.float32)

    def gather(self, tile: Tile, plan: Plan) -> Result:
        """Give what a tile of `plan` reads, normalised."""
        return normalise(read_mirrored(self.section_YX, plan.pad, tile.reads), self.statistics)


class Job:
    """One section: its views, and how many of their tiles are still to come."""

    def __init__(self, section_YX: Section, settings: Settings, halvings: int) -> None:
        self.views = [View(section_YX, symmetry, settings, halvings) for symmetry in settings.symmetries]
        self.pending = sum(len(view.plan.tiles) for view in self.views)

    def result(self) -> Result:
        """Average the views in their fixed order, so that the sum has one rounding."""
        if len(self.views) == 1:
            return self.views[0].symmetry.undo(self.views[0].out_YX)
        total_YX = sum(view.symmetry.undo(view.out_YX).astype(np.float64) for view in self.views)
        return np.asarray(total_YX / len(self.views), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Item:
    """One tile to compute."""

    job: Job
    view: View
    tile: Tile


def overlap(a: Tile, b: Tile) -> bool:
    """Whether two tiles own pixels in common."""
    return all(x.start < y.stop and y.start < x.stop for x, y in zip(a.owns, b.owns, strict=True))
