"""A section on its way: its symmetric views, their tiles, and what is still to come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.mending import in_window, tissue_window
from isbi_infer.pixels.normalise import Statistics, normalise
from isbi_infer.pixels.probability import checked, decode
from isbi_infer.pixels.resample import resample_source, resample_window
from isbi_infer.pixels.statistics import SectionStatistics
from isbi_infer.pixels.texture import texture_of
from isbi_infer.plan.run import ModelRecord, RunPlan
from isbi_infer.plan.symmetry import Symmetry
from isbi_infer.plan.tiles import SectionPlan, Tile, Window, mirrored_source, read_mirrored
from isbi_infer.run.tissue import Tissue, stand_ins, tissue_at

Section = npt.NDArray[Any]
Result = npt.NDArray[Any]  # float32 or uint8, as the model returns it


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What the pixels of a whole section decide about each of its parts.

    Attributes
    ----------
    statistics : SectionStatistics
        Its tissue, in the units of the section.
    normalising : Statistics
        By which its tissue is normalised, at the model's pixel size.
    """

    statistics: SectionStatistics
    normalising: Statistics


def measure(section_YX: Section, plan: RunPlan) -> tuple[Measured, Section | None]:
    """Measure a section that is held whole.

    Parameters
    ----------
    section_YX : ndarray, shape (Y, X)
        Grey values, perhaps masked.
    plan : RunPlan
        Says to which pixel size it is brought.

    Returns
    -------
    (Measured, ndarray or None)
        What was measured, and the tissue at the model's pixel size; None for a blank section.
    """
    tissue = Tissue.of(
        section_YX,
        plan.scaling,
        nodata=plan.source.nodata,
        as_bytes=plan.model.input_dtype == "uint8",
    )
    measured = Measured(tissue.found, tissue.statistics)
    return measured, None if tissue.found.blank else tissue.pixels_YX


def laid_out(
    plan: RunPlan, shape: tuple[int, int], window: Window
) -> Iterator[tuple[Symmetry, SectionPlan, Window]]:
    """Yield the views of a section, with the tiles of each and where a window of the section lies in it.

    Parameters
    ----------
    plan : RunPlan
        Decides tiles and views.
    shape : (int, int)
        (Y, X) of the section's tissue, at the model's pixel size.
    window : (slice, slice)
        In the same frame.
    """
    for symmetry in plan.views:
        turned = shape[::-1] if symmetry.turns % 2 else shape
        tiles = plan.tiles_of(symmetry).fitted((turned[0], turned[1]))
        yield symmetry, tiles, symmetry.apply_window(window, shape)


class View:
    """One symmetric view of a window of a section on its way through the tiles.

    Attributes
    ----------
    sections : list of ndarray, each of shape (Y, X)
        The pixels that the tiles need, which begin at `origin` of the view's whole section: those of the section, which
        stands in the middle, and of its neighbours that the network sees.
    statistics : tuple of Statistics
        By which each of these is normalised.
    plan : SectionPlan
        The tiles of the whole section.
    tiles : tuple of Tile
        Those that own pixels of the window.
    out_YX : ndarray
        The result, of the shape of the window.
    """

    def __init__(
        self,
        plan: SectionPlan,
        window: Window,
        symmetry: Symmetry,
        statistics: tuple[Statistics, ...],
        model: ModelRecord,
    ) -> None:
        self.symmetry, self.plan, self.statistics = symmetry, plan, statistics
        self.tiles = plan.touching(window)
        self.sections: list[Section] = []
        self.origin = (0, 0)
        self.out_YX: Result = np.empty(_shape(window), model.output_dtype)
        self._window = window
        self._normalised = model.input_dtype == "float32"

    @property
    def needs(self) -> Window:
        """The pixels of the view's whole section that its tiles read."""
        if len(self.tiles) == len(self.plan.tiles):
            return slice(0, self.plan.shape[0]), slice(0, self.plan.shape[1])
        spans = [mirrored_source(self.plan.pad, tile.reads, self.plan.shape) for tile in self.tiles]
        return _around(spans)

    def gather(self, tile: Tile, out_CYX: Result) -> None:
        """Put what a tile reads of each section into `out_CYX`, normalised where the model expects that."""
        for section_YX, statistics, out_YX in zip(self.sections, self.statistics, out_CYX, strict=True):
            raw_YX = read_mirrored(
                section_YX, self.plan.pad, tile.reads, shape=self.plan.shape, origin=self.origin
            )
            if self._normalised:
                normalise(raw_YX, statistics, out_YX)
            else:
                out_YX[...] = raw_YX

    def keep(self, tile: Tile, result_YX: Result) -> None:
        """Take what a tile owns of the window from the tile's result."""
        kept, places = [], []
        for own, crop, part in zip(tile.owns, tile.crop, self._window, strict=True):
            start, stop = max(own.start, part.start), min(own.stop, part.stop)
            if start >= stop:
                return
            kept.append(slice(crop.start + start - own.start, crop.start + stop - own.start))
            places.append(slice(start - part.start, stop - part.start))
        self.out_YX[places[0], places[1]] = result_YX[kept[0], kept[1]]


class SectionInWork:
    """A section, or a window of one: its tissue, the views of it, and how many of their tiles are still to come.

    Every frame between the section and its tiles is cut to what the window needs; the pixels there are those of the
    whole section, so the result is too::

        window of the section  ->  of its tissue  ->  at the model's pixel size  ->  in each view  ->  tiles
        pixels that are read   <-                 <-                             <-                <-  what these read

    A network may see the sections before and after one, too: they are cut where that one is. Where a neighbour has no
    tissue, or another outline of it, the next one on the way to the section stands in for it, at last the section
    itself.

    Parameters
    ----------
    seen : sequence of (Measured, ndarray or None)
        What `measure` returns of the whole section, in the middle, and of the neighbours that the network sees.
    plan : RunPlan
        Decides tiles and views.
    """

    def __init__(self, seen: Sequence[tuple[Measured, Section | None]], plan: RunPlan) -> None:
        height, width = plan.source.shape
        chosen = stand_ins([measured.statistics for measured, _ in seen])
        self._lay_out([seen[place][0] for place in chosen], plan, (slice(0, height), slice(0, width)))
        if self.views:
            self._fill([inner for place in chosen if (inner := seen[place][1]) is not None], (0, 0))

    @classmethod
    def of_window(
        cls, seen: Sequence[tuple[Measured, Callable[[Window], Section]]], plan: RunPlan, window: Window
    ) -> SectionInWork:
        """Return a window of a section.

        Parameters
        ----------
        seen : sequence of (Measured, callable)
            The whole section, see `measure`, in the middle, with what returns a window of its grey values; and the
            neighbours that the network sees.
        plan : RunPlan
            Decides tiles and views.
        window : (slice, slice)
            In the frame of the section.
        """
        section = cls.__new__(cls)
        chosen = stand_ins([measured.statistics for measured, _ in seen])
        section._lay_out([seen[place][0] for place in chosen], plan, window)
        if section.views:
            needed = _around(
                [view.symmetry.undo_window(view.needs, section._inner_shape) for view in section.views]
            )
            origin = needed[0].start, needed[1].start
            read = {
                place: section._read_inner(seen[place][1], seen[place][0].statistics, plan, needed)
                for place in dict.fromkeys(chosen)
            }
            section._fill([read[place] for place in chosen], origin)
        return section

    def _lay_out(self, seen: Sequence[Measured], plan: RunPlan, window: Window) -> None:
        """Decide which tiles the window needs."""
        measured = seen[len(seen) // 2]
        self.statistics, self._window, self._dtype = measured.statistics, window, plan.model.output_dtype
        self._scaled = plan.scaling is not None
        self.views: list[View] = []
        box = self.statistics.box
        self._tissue_shape = _shape(box)
        self._in_section = (_cut(window[0], box[0]), _cut(window[1], box[1]))
        if not self.statistics.blank and min(_shape(self._in_section)) > 0:
            tissue = _shifted(self._in_section, -box[0].start, -box[1].start)
            self._tissue = tissue
            self._inner_shape = (
                plan.scaling.inner_shape(self._tissue_shape) if plan.scaling else self._tissue_shape
            )
            self._inner = (
                resample_source(self._inner_shape, self._tissue_shape, tissue) if plan.scaling else tissue
            )
            normalising = tuple(each.normalising for each in seen)
            for symmetry, tiles, part in laid_out(plan, self._inner_shape, self._inner):
                self.views.append(View(tiles, part, symmetry, normalising, plan.model))
        self.tiles = self.pending = sum(len(view.tiles) for view in self.views)

    def _read_inner(
        self,
        read: Callable[[Window], Section],
        statistics: SectionStatistics,
        plan: RunPlan,
        needed: Window,
    ) -> Section:
        """Read tissue at the model's pixel size."""
        if plan.scaling is None:
            return tissue_window(read, statistics, needed)
        as_bytes = plan.model.input_dtype == "uint8"
        return tissue_at(read, statistics, self._inner_shape, needed, as_bytes=as_bytes)

    def _fill(self, inner: Sequence[Section], origin: tuple[int, int]) -> None:
        """Hand the views the pixels of all sections that are seen, which begin at `origin`."""
        height, width = inner[0].shape
        place = slice(origin[0], origin[0] + height), slice(origin[1], origin[1] + width)
        for view in self.views:
            part = view.symmetry.apply_window(place, self._inner_shape)
            view.sections = [view.symmetry.apply(inner_YX) for inner_YX in inner]
            view.origin = part[0].start, part[1].start

    def texture(self) -> tuple[float, ...] | None:
        """Measure how what is read of the section looks; None where there is too little to tell."""
        if not self.views:
            return None
        view = self.views[0]
        middle = len(view.sections) // 2
        return texture_of(view.sections[middle], view.statistics[middle])

    def result(self) -> Result:
        """Return the result of the window at the section's own size, 0 where there is no tissue.

        Views are averaged in their fixed order, with one rounding. ModelError where the model gave no probabilities.
        """
        if not self.views:
            return np.zeros(_shape(self._window), self._dtype)
        result_YX = checked(self._mean_of_views())
        if self._scaled:
            start = self._inner[0].start, self._inner[1].start
            shapes = self._inner_shape, self._tissue_shape
            result_YX = checked(resample_window(decode(result_YX), start, *shapes, self._tissue))
        return in_window(result_YX, self._in_section, self.statistics, self._window)

    def _mean_of_views(self) -> Result:
        if len(self.views) == 1:
            return self.views[0].symmetry.undo(self.views[0].out_YX)
        mean_YX = sum(view.symmetry.undo(view.out_YX).astype(np.float64) for view in self.views) / len(
            self.views
        )
        dtype = self.views[0].out_YX.dtype
        return np.asarray(np.rint(mean_YX) if dtype == np.uint8 else mean_YX, dtype=dtype)


def _shape(window: Window) -> tuple[int, int]:
    return window[0].stop - window[0].start, window[1].stop - window[1].start


def _shifted(window: Window, rows: int, columns: int) -> Window:
    y, x = window
    return slice(y.start + rows, y.stop + rows), slice(x.start + columns, x.stop + columns)


def _cut(span: slice, limits: slice) -> slice:
    start = max(span.start, limits.start)
    return slice(start, max(start, min(span.stop, limits.stop)))


def _around(windows: Sequence[Window]) -> Window:
    """Return the smallest window that holds others."""
    y, x = (slice(min(w[axis].start for w in windows), max(w[axis].stop for w in windows)) for axis in (0, 1))
    return y, x


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
            What the backend takes: the batch (N, C, Y, X), and where it normalises the means and inverse standard
            deviations (N, C, 1, 1); and where its result may go, (N, 1, Y, X). Both are overwritten by the next call.
        """
        reads = items[0].tile.reads
        model = self._plan.model
        channels = 1 + 2 * model.neighbours
        shape = (count, channels, reads[0].stop - reads[0].start, reads[1].stop - reads[1].start)
        if self._held is None or self._held[0].shape != shape:
            self._held = None  # first of all, for both may not fit
            result = np.empty((count, 1, *shape[2:]), model.output_dtype)
            self._held = np.empty(shape, model.input_dtype), result
        batch_NCYX, result_NCYX = self._held
        for i, item in enumerate(items):
            item.view.gather(item.tile, batch_NCYX[i])
        batch_NCYX[len(items) :] = 0
        if model.input_dtype == "float32":
            return [batch_NCYX], result_NCYX
        found = [item.view.statistics for item in items]
        constants = np.zeros((2, count, channels, 1, 1), np.float32)
        constants[0, : len(found), :, 0, 0] = [[each.mean for each in seen] for seen in found]
        constants[1, : len(found), :, 0, 0] = [[each.inverse_std for each in seen] for seen in found]
        return [batch_NCYX, *constants], result_NCYX
