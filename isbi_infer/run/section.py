"""A section on its way: its symmetric views, their tiles, and what is still to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.normalise import Statistics, normalise
from isbi_infer.pixels.probability import checked
from isbi_infer.plan.run import RunPlan
from isbi_infer.plan.symmetry import Symmetry
from isbi_infer.plan.tiles import SectionPlan, Tile, read_mirrored
from isbi_infer.run.tissue import Tissue

Section = npt.NDArray[Any]
Result = npt.NDArray[Any]  # float32 or uint8, as the model returns it


class View:
    """One symmetric view of a section on its way through the tiles."""

    def __init__(
        self, section_YX: Section, symmetry: Symmetry, statistics: Statistics, plan: RunPlan
    ) -> None:
        self.section_YX = symmetry.apply(section_YX)
        self.symmetry = symmetry
        self.statistics = statistics
        shape = (self.section_YX.shape[0], self.section_YX.shape[1])
        self.plan: SectionPlan = plan.tiles_of(symmetry).fitted(shape)
        self.out_YX: Result = np.empty(self.section_YX.shape, plan.model.output_dtype)
        self._normalised = plan.model.input_dtype == "float32"

    def gather(self, tile: Tile, out_YX: Result) -> None:
        """Put what a tile reads into `out_YX`, normalised where the model expects that."""
        raw_YX = read_mirrored(self.section_YX, self.plan.pad, tile.reads)
        if self._normalised:
            normalise(raw_YX, self.statistics, out_YX)
        else:
            out_YX[...] = raw_YX


class SectionInWork:
    """One section: its tissue, the views of it, and how many of their tiles are still to come."""

    def __init__(self, section_YX: Section, plan: RunPlan) -> None:
        self._dtype = plan.model.output_dtype
        self._tissue = Tissue.of(
            section_YX,
            plan.scaling,
            nodata=plan.source.nodata,
            as_bytes=plan.model.input_dtype == "uint8",
        )
        self.statistics = self._tissue.found
        self.views: list[View] = []
        if not self.statistics.blank:
            pixels_YX, statistics = self._tissue.pixels_YX, self._tissue.statistics
            self.views = [View(pixels_YX, symmetry, statistics, plan) for symmetry in plan.views]
        self.pending = sum(len(view.plan.tiles) for view in self.views)

    def result(self) -> Result:
        """Return the result at the section's own size, 0 where there is no tissue.

        Views are averaged in their fixed order, with one rounding. ModelError where the model gave no probabilities.
        """
        return self._tissue.whole(
            checked(self._mean_of_views()) if self.views else np.empty((0, 0), self._dtype)
        )

    def _mean_of_views(self) -> Result:
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

    section: SectionInWork
    view: View
    tile: Tile


class Buffers:
    """Memory that one worker fills again and again: a batch, its statistics and its result.

    New arrays would cost their first touch, page by page, for every batch.
    """

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._held: tuple[Result, Result] | None = None

    def gather(self, items: Sequence[Item], count: int) -> tuple[list[Result], Result]:
        """Read tiles of one shape into a batch.

        Parameters
        ----------
        items : sequence of Item
            What to read.
        count : int
            Size of the batch; what `items` do not fill is zero.

        Returns
        -------
        (list of ndarray, ndarray)
            What the backend takes: the batch (N, 1, Y, X), and where it normalises the means and inverse standard
            deviations (N, 1, 1, 1); and where its result may go. Both are overwritten by the next call.
        """
        reads = items[0].tile.reads
        shape = (count, 1, reads[0].stop - reads[0].start, reads[1].stop - reads[1].start)
        model = self._plan.model
        if self._held is None or self._held[0].shape != shape:
            self._held = None  # first of all, for both may not fit
            self._held = np.empty(shape, model.input_dtype), np.empty(shape, model.output_dtype)
        batch_NCYX, result_NCYX = self._held
        for i, item in enumerate(items):
            item.view.gather(item.tile, batch_NCYX[i, 0])
        batch_NCYX[len(items) :] = 0
        if model.input_dtype == "float32":
            return [batch_NCYX], result_NCYX
        found = [item.view.statistics for item in items]
        constants = np.zeros((2, count, 1, 1, 1), np.float32)
        constants[0, : len(found), 0, 0, 0] = [statistics.mean for statistics in found]
        constants[1, : len(found), 0, 0, 0] = [statistics.inverse_std for statistics in found]
        return [batch_NCYX, *constants], result_NCYX
