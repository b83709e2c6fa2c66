"""Sections on their way: their symmetric views, the views' tiles, and what is still to come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.plan.symmetry import Symmetry
from isbi_infer.plan.tiles import Plan, Tile, read_mirrored

Section = npt.NDArray[Any]
Result = npt.NDArray[Any]  # float32 or uint8, as Settings.result_dtype says


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
    normalised : bool
        Whether the backend takes normalised grey values; otherwise it takes uint8 ones and the section's statistics.
    result_dtype : {"float32", "uint8"}
        What the backend gives: probabilities p, or round(255 p).
    """

    plan: Callable[[tuple[int, int], int], Plan]
    batch: Callable[[Plan], int]
    lanes: int
    symmetries: tuple[Symmetry, ...]
    fixed_batch: bool = False
    normalised: bool = True
    result_dtype: str = "float32"


class View:
    """One symmetric view of a section on its way through the tiles."""

    def __init__(self, section_YX: Section, symmetry: Symmetry, settings: Settings, halvings: int) -> None:
        self.section_YX = symmetry.apply(section_YX)
        self.symmetry = symmetry
        self.statistics = intensity_statistics(section_YX)
        self.plan = settings.plan((self.section_YX.shape[0], self.section_YX.shape[1]), halvings)
        self.out_YX: Result = np.empty(self.section_YX.shape, settings.result_dtype)
        self._normalised = settings.normalised

    def gather(self, tile: Tile, plan: Plan, out_YX: Result) -> None:
        """Put what a tile of `plan` reads into `out_YX`, normalised where the backend wants that."""
        raw_YX = read_mirrored(self.section_YX, plan.pad, tile.reads)
        if self._normalised:
            normalise(raw_YX, self.statistics, out_YX)
        else:
            out_YX[...] = raw_YX


class Job:
    """One section: its views, and how many of their tiles are still to come."""

    def __init__(self, section_YX: Section, settings: Settings, halvings: int) -> None:
        self.views = [View(section_YX, symmetry, settings, halvings) for symmetry in settings.symmetries]
        self.pending = sum(len(view.plan.tiles) for view in self.views)

    def result(self) -> Result:
        """Average the views in their fixed order, so that the sum has one rounding."""
        if len(self.views) == 1:
            return self.views[0].symmetry.undo(self.views[0].out_YX)
        mean_YX = sum(view.symmetry.undo(view.out_YX).astype(np.float64) for view in self.views) / len(
            self.views
        )
        dtype = self.views[0].out_YX.dtype
        return np.asarray(np.rint(mean_YX) if dtype == np.uint8 else mean_YX, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Item:
    """One tile to compute."""

    job: Job
    view: View
    tile: Tile


class Buffers:
    """Memory that one lane fills again and again: a batch, its statistics and its result.

    New arrays would cost their first touch, page by page, for every batch.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: tuple[Result, Result] | None = None

    def gather(self, items: Sequence[tuple[View, Plan, Tile]], count: int) -> tuple[list[Result], Result]:
        """Read tiles of one shape into a batch.

        Parameters
        ----------
        items : sequence of (View, Plan, Tile)
            What to read.
        count : int
            Size of the batch; what `items` do not fill is zero.

        Returns
        -------
        (list of ndarray, ndarray)
            What the backend takes: the batch (N, 1, Y, X), and where it normalises the means and inverse standard
            deviations (N, 1, 1, 1); and where its result may go. Both are overwritten by the next call.
        """
        shape = (count, 1, *items[0][1].tile_shape)
        if self._held is None or self._held[0].shape != shape:
            self._held = None  # first of all, for both may not fit
            batch_dtype = np.float32 if self._settings.normalised else np.uint8
            self._held = np.empty(shape, batch_dtype), np.empty(shape, self._settings.result_dtype)
        batch_NCYX, result_NCYX = self._held
        for i, (view, plan, tile) in enumerate(items):
            view.gather(tile, plan, batch_NCYX[i, 0])
        batch_NCYX[len(items) :] = 0
        if self._settings.normalised:
            return [batch_NCYX], result_NCYX
        found = [view.statistics for view, _, _ in items]
        constants = np.zeros((2, count, 1, 1, 1), np.float32)
        constants[0, : len(found), 0, 0, 0] = [statistics.mean for statistics in found]
        constants[1, : len(found), 0, 0, 0] = [statistics.inverse_std for statistics in found]
        return [batch_NCYX, *constants], result_NCYX


def overlap(a: Tile, b: Tile) -> bool:
    """Whether two tiles own pixels in common."""
    return all(x.start < y.stop and y.start < x.stop for x, y in zip(a.owns, b.owns, strict=True))
