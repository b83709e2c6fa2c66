"""Large connected regions of one grey value that end abruptly: canvas, found band by band.

What is kept of a section are the runs of its flat windows, not its pixels: a region is painted from them where it is
asked for, so memory follows the outline of regions and not the size of sections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.windows import (
    Grid,
    Mask,
    MaskOfRows,
    Window,
    all_of,
    bands,
    has_square,
    over,
)

Indices = npt.NDArray[np.intp]

GREATEST_GREY = 1e30  # floats beyond it mean "no data" in every program

_SOLID = 32  # px; in four labelled stacks the largest flat square of clipped tissue has 18
_CORNER = 256  # pixels of a region that holds a corner of the section, as a wedge after a small rotation
_THIN = 4  # px
_MARGIN = _THIN - 1  # px
_CONTACT = 128  # px; the longest run of equal pixels in those stacks has 86
_RIM = 2  # px
_STEP = 0.6  # of the mean difference between tissue and canvas; canvas has 0.8 and more, clipped tissue 0.1 to 0.7
_RAGGED = 0.12  # of the rim's pixels have the region's value too; in clipped tissue 0.12 to 0.3, at canvas 0 to 0.09
_LARGE = 160  # px; where JPEG blurs the edges only size tells; clipped tissue has squares up to 60
_BLUR = 7  # px; JPEG works in blocks of 8
_ALIKE = 0.4  # of the mean difference between tissue and canvas
_MOST_REGIONS = 64  # a section of more has few grey levels and no canvas
_BAND = 2**16  # pixels at a time, so that temporaries stay small
_MANY_RUNS = 2**20  # before those of small regions are dropped


class Region(Protocol):
    """A part of a section, painted where it is asked for."""

    @property
    def box(self) -> Window:
        """Its bounding box in the section."""

    def mask(self, rows: slice) -> Mask:
        """Return where it is, in rows of its box and all columns of it."""


def flat_regions(section_YX: Grid, known: MaskOfRows | None) -> list[Region]:
    """Find the regions of one value that are canvas.

    Parameters
    ----------
    section_YX : Grid, shape (Y, X)
        Grey values.
    known : callable or None
        Returns rows of the mask of what is known to be no tissue.

    Returns
    -------
    list of Region
    """
    if min(section_YX.shape) < 2 * _THIN:
        return []
    side = min(_SOLID, max(2 * _THIN, min(section_YX.shape) // 2))
    solid = _origins(_flat_windows(section_YX, side), section_YX.shape)
    contact, corners = _edge_contacts(section_YX), _flat_corners(section_YX)
    if not (len(solid) or len(contact) or len(corners)):
        return []
    runs = _Runs.of(section_YX, np.concatenate((solid, contact, corners)))
    touching = set(runs.region_at(contact).tolist())
    cornered = set(runs.region_at(corners).tolist())
    candidates = touching.union(cornered, runs.region_at(solid).tolist())
    if len(candidates) > _MOST_REGIONS:
        candidates = touching | cornered
    cornered -= touching.union(runs.region_at(solid).tolist())
    found = ((index, runs.region(index, section_YX, index in touching)) for index in sorted(candidates))
    regions = [region for index, region in found if index not in cornered or region.covers(_CORNER)]
    regions = [region for region in regions if abs(region.value) < GREATEST_GREY]
    return _abrupt(section_YX, regions, known)


def _flat_windows(section_YX: Grid, side: int) -> Iterator[tuple[int, Mask]]:
    """Yield, band by band, the first row and whether a window of `side` x `side` equal pixels starts at each pixel."""
    height, width = section_YX.shape
    rows, columns = max(4 * side, _BAND // width), max(4 * side, _BAND // (4 * side))
    for start in range(0, height - side + 1, rows):
        band_YX = section_YX[start : min(start + rows + side - 1, height)]
        found_YX: Mask | None = None
        for left in range(0, width - side + 1, columns):
            flat_YX = _flat(band_YX[:, left : left + columns + side - 1], side)
            if flat_YX is not None:
                if found_YX is None:
                    found_YX = np.zeros((len(band_YX) - side + 1, width - side + 1), np.bool_)
                found_YX[:, left : left + columns] = flat_YX
        del band_YX  # before the next is read
        if found_YX is not None:
            yield start, found_YX


def _flat(part_YX: npt.NDArray[Any], side: int) -> Mask | None:
    """Return whether a window of `side` x `side` equal pixels starts at each pixel; None where no row has a run."""
    flat_YX = all_of(part_YX[:, 1:] == part_YX[:, :-1], side - 1, 1)
    if not flat_YX.any():
        return None
    down_YX = part_YX[1:, : flat_YX.shape[1]] == part_YX[:-1, : flat_YX.shape[1]]
    return all_of(flat_YX[1:] & flat_YX[:-1] & down_YX, side - 1, 0)


def _origins(flat: Iterator[tuple[int, Mask]], shape: tuple[int, ...]) -> Indices:
    """List where runs of windows start, as places in rows one pixel longer than the section."""
    return np.concatenate([np.zeros(0, np.intp), *(starts for starts, _ in _row_runs(flat, shape))])


def _row_runs(flat: Iterator[tuple[int, Mask]], shape: tuple[int, ...]) -> Iterator[tuple[Indices, Indices]]:
    """Yield starts and ends of the runs along rows, as places in rows one pixel longer than the section."""
    stride = shape[1] + 1
    for first, mask_YX in flat:
        line = np.zeros((len(mask_YX), stride), np.bool_)
        line[:, 1 : 1 + mask_YX.shape[1]] = mask_YX
        change = np.flatnonzero(line.ravel()[1:] != line.ravel()[:-1]) + first * stride
        yield change[::2], change[1::2]


def _flat_corners(section_YX: Grid) -> Indices:
    """List the places of the section's corners where a window is flat."""
    height, width = section_YX.shape
    places = [(y, x) for y in (0, height - _THIN) for x in (0, width - _THIN)]
    corners = [section_YX[y : y + _THIN, x : x + _THIN] for y, x in places]
    flat = [(corner_YX == corner_YX[0, 0]).all() for corner_YX in corners]
    return np.array(
        [y * (width + 1) + x for (y, x), is_flat in zip(places, flat, strict=True) if is_flat], np.intp
    )


def _edge_contacts(section_YX: Grid) -> Indices:
    """List places on the section's edges where a long run of equal pixels starts."""
    height, width = section_YX.shape
    found = [np.zeros(0, np.intp)]
    for edge, first, step in (
        (section_YX[:1].ravel(), 0, 1),
        (section_YX[height - 1 :].ravel(), (height - 1) * (width + 1), 1),
        (section_YX[:, :1].ravel(), 0, width + 1),
        (section_YX[:, width - 1 :].ravel(), width - 1, width + 1),
    ):
        contact = max(len(edge) // 4, min(_CONTACT, len(edge) // 2))
        found.append(first + step * np.flatnonzero(all_of(edge[1:] == edge[:-1], contact - 1, 0)))
    return np.concatenate(found)


class _Widened:
    """An image that goes on as its edge pixels by 3 pixels."""

    def __init__(self, image_YX: Grid) -> None:
        self._image_YX = image_YX
        height, width = image_YX.shape
        self.shape: tuple[int, ...] = height + 2 * _MARGIN, width + 2 * _MARGIN
        self.dtype, self.size = image_YX.dtype, self.shape[0] * self.shape[1]

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        last = self._image_YX.shape[0] - 1
        first, end = min(max(start - _MARGIN, 0), last), min(max(stop - _MARGIN, 1), last + 1)
        above, below = first - (start - _MARGIN), stop - _MARGIN - end
        return np.pad(self._image_YX[first:end], ((above, below), (_MARGIN, _MARGIN)), mode="edge")


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs along rows of places where a window of 4 x 4 equal pixels starts, and the connected region of each.

    The section goes on as its edge pixels by 3 pixels, so that windows see strips of canvas of a single pixel at its
    edges. Places are in rows one pixel longer than that.
    """

    shape: tuple[int, ...]
    stride: int
    starts: Indices
    ends: Indices
    regions: Indices

    @classmethod
    def of(cls, section_YX: Grid, seeds: Indices) -> _Runs:
        """Find the runs of regions that hold one of the seeds, and some more."""
        wide_YX = _Widened(section_YX)
        stride = wide_YX.shape[1] + 1
        wanted = np.unique(_widened_places(seeds, section_YX.shape[1], stride))
        starts = ends = np.zeros(0, np.intp)
        waiting: list[tuple[Indices, Indices]] = []
        most = _MANY_RUNS
        for found in _row_runs(_flat_windows(wide_YX, _THIN), wide_YX.shape):
            waiting.append(found)
            if len(starts) + sum(len(part) for part, _ in waiting) > most:
                starts, ends = _kept(*_joined(starts, ends, waiting), stride, wanted)
                waiting, most = [], max(_MANY_RUNS, 2 * len(starts))
        starts, ends = _joined(starts, ends, waiting)
        return cls(section_YX.shape, stride, starts, ends, _regions(starts, ends, stride))

    def region_at(self, places: Indices) -> Indices:
        """Find the regions of flat windows, by the places where they start in rows one longer than the section's."""
        places = _widened_places(places, self.shape[1], self.stride)
        return self.regions[np.searchsorted(self.starts, places, "right") - 1]

    def region(self, index: int, section_YX: Grid, touches: bool) -> _Flat:
        of_it = self.regions == index
        return _Flat.of(section_YX, self.starts[of_it], self.ends[of_it], self.stride, touches)


def _widened_places(places: Indices, width: int, stride: int) -> Indices:
    y, x = np.divmod(places, width + 1)
    y, x = (np.where(at == 0, at, at + _MARGIN) for at in (y, x))
    return y * stride + x


def _joined(
    starts: Indices, ends: Indices, more: Sequence[tuple[Indices, Indices]]
) -> tuple[Indices, Indices]:
    return (
        np.concatenate([starts, *(part for part, _ in more)]),
        np.concatenate([ends, *(part for _, part in more)]),
    )


def _kept(starts: Indices, ends: Indices, stride: int, seeds: Indices) -> tuple[Indices, Indices]:
    """Drop runs of regions without a seed that do not reach the last row: rows to come cannot join them."""
    regions = _regions(starts, ends, stride)
    seeds = seeds[: np.searchsorted(seeds, ends[-1])]
    wanted = np.zeros(len(starts), np.bool_)
    wanted[regions[np.searchsorted(starts, seeds, "right") - 1]] = True
    wanted[regions[starts // stride >= starts[-1] // stride]] = True
    keep = wanted[regions]
    return starts[keep], ends[keep]


def _regions(starts: Indices, ends: Indices, stride: int) -> Indices:
    """Label runs by the first run that they are connected with."""
    first = np.searchsorted(ends, starts + stride, "right")  # of the runs below that overlap
    count = np.maximum(np.searchsorted(starts, ends + stride, "left") - first, 0)
    upper = np.repeat(np.arange(len(starts)), count)
    lower = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    return _connected(len(starts), upper, lower)


def _connected(count: int, one: Indices, other: Indices) -> Indices:
    """Label `count` nodes by the least one that they are linked with."""
    label = np.arange(count)
    while True:
        low = np.minimum(label[one], label[other])
        if (low == np.maximum(label[one], label[other])).all():
            return label
        np.minimum.at(label, label[one], low)
        np.minimum.at(label, label[other], low)
        while (label[label] != label).any():
            label = label[label]


@dataclass(frozen=True, slots=True)
class _Flat:
    """A connected region of one value, as the runs of its flat windows in the widened section."""

    value: float
    box: Window
    starts: Indices
    ends: Indices
    stride: int
    touches: bool  # a long edge of the section

    @classmethod
    def of(cls, section_YX: Grid, starts: Indices, ends: Indices, stride: int, touches: bool) -> _Flat:
        row, left = np.divmod(starts, stride)
        right = ends - row * stride
        spans = (int(row[0]), int(row[-1])), (int(left.min()), int(right.max()) - 1)
        y, x = (
            slice(max(0, first - _MARGIN), min(size, last + 1))
            for (first, last), size in zip(spans, section_YX.shape, strict=True)
        )
        region = cls(0.0, (y, x), starts, ends, stride, touches)
        column = x.start + int(region.mask(slice(y.start, y.start + 1))[0].argmax())
        value = float(section_YX[y.start : y.start + 1, column : column + 1][0, 0])
        return cls(value, (y, x), starts, ends, stride, touches)

    def mask(self, rows: slice) -> Mask:
        # A pixel belongs to the region where one of the 4 x 4 windows that hold it does.
        first, count = rows.start, rows.stop - rows.start + _MARGIN
        left, width = self.box[1].start, self.box[1].stop - self.box[1].start + _MARGIN
        part = slice(*np.searchsorted(self.starts, (first * self.stride, (first + count) * self.stride)))
        row, start = np.divmod(self.starts[part], self.stride)
        stop = self.ends[part] - row * self.stride
        line = (row - first) * width - left
        changes = np.column_stack((line + start, line + stop)).ravel()
        lengths = np.diff(changes, prepend=0, append=count * width)
        origins_YX = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(count, width)
        return over(np.logical_or, over(np.logical_or, origins_YX, _THIN, 0), _THIN, 1)

    def covers(self, pixels: int) -> bool:
        """Return whether it has at least so many pixels."""
        found = 0
        for rows in bands(self.box[0].start, self.box[0].stop, self.box[1].stop - self.box[1].start):
            found += int(np.count_nonzero(self.mask(rows)))
            if found >= pixels:
                return True
        return False


class _Tissue:
    """What of a section is neither known to be none nor in a region."""

    def __init__(self, regions: Sequence[Region], known: MaskOfRows | None) -> None:
        self._regions, self._known = regions, known

    def __call__(self, rows: slice, columns: slice) -> Mask:
        out_YX = np.ones((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
        if self._known is not None:
            out_YX &= ~self._known(rows)[:, columns]
        paint(out_YX, (rows, columns), self._regions, False)
        return out_YX


def paint(mask_YX: Mask, window: Window, regions: Sequence[Region], value: bool) -> None:
    """Set the pixels of regions in a window of a mask."""
    for region in regions:
        y, x = (
            slice(max(own.start, part.start), min(own.stop, part.stop))
            for own, part in zip(window, region.box, strict=True)
        )
        if y.start >= y.stop or x.start >= x.stop:
            continue
        left = region.box[1].start
        place = mask_YX[
            y.start - window[0].start : y.stop - window[0].start,
            x.start - window[1].start : x.stop - window[1].start,
        ]
        place[region.mask(y)[:, x.start - left : x.stop - left]] = value


@dataclass(frozen=True, slots=True)
class _Soft:
    """The surroundings of a region that are nearly of its value."""

    section_YX: Grid
    flat: _Flat
    tissue: _Tissue
    most: float  # difference

    @property
    def box(self) -> Window:
        return _surroundings(self.flat, self.section_YX.shape, _BLUR)

    def mask(self, rows: slice) -> Mask:
        columns = self.box[1]
        difference_YX = np.abs(self.section_YX[rows, columns] - np.float64(self.flat.value))
        near_YX = _near(self.flat, (rows, columns), _BLUR) & self.tissue(rows, columns)
        alike_YX: Mask = near_YX & (difference_YX < self.most)
        return alike_YX


def _abrupt(section_YX: Grid, regions: list[_Flat], known: MaskOfRows | None) -> list[Region]:
    """Keep regions on a long edge, very large ones, and those that differ from their rim as from tissue anywhere.

    What is kept although its rim is alike has soft edges, as JPEG makes them, and is widened to where they end.
    """
    height, width = section_YX.shape
    tissue = _Tissue(regions, known)
    everywhere = slice(0, width)
    values = sorted({region.value for region in regions})
    totals = {value: _Steps() for value in values}
    for rows in bands(0, height, width) if values else ():
        pixels = section_YX[rows][tissue(rows, everywhere)]
        for value, steps in totals.items():
            steps.add(pixels, value)
    kept: list[Region] = []
    for region in regions:
        overall = totals[region.value].mean
        rim = _Steps()
        y, x = _surroundings(region, section_YX.shape, _RIM)
        for rows in bands(y.start, y.stop, x.stop - x.start):
            near_YX = _near(region, (rows, x), _RIM) & tissue(rows, x)
            rim.add(section_YX[rows, x][near_YX], region.value)
        ragged = rim.equal >= _RAGGED * rim.count
        soft = rim.mean < _STEP * overall
        if not rim.count or not (ragged or soft):
            kept.append(region)
        elif region.touches or has_square(
            region.mask, region.box[0], region.box[1].stop - region.box[1].start, _LARGE
        ):
            kept.append(region)
            if soft:
                kept.append(_Soft(section_YX, region, tissue, _ALIKE * overall))
    return kept


class _Steps:
    """How far pixels are from a value on average, added up band by band."""

    def __init__(self) -> None:
        self.total, self.count, self.equal = 0.0, 0, 0

    def add(self, pixels: npt.NDArray[Any], value: float) -> None:
        self.total += float(np.abs(pixels - np.float64(value)).sum())
        self.count += pixels.size
        self.equal += int(np.count_nonzero(pixels == value))

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


def _surroundings(region: _Flat, shape: tuple[int, ...], distance: int) -> Window:
    y, x = (
        slice(max(0, part.start - distance), min(size, part.stop + distance))
        for part, size in zip(region.box, shape, strict=True)
    )
    return y, x


def _near(region: _Flat, window: Window, distance: int) -> Mask:
    """Return where in a window there is a pixel of a region at most so far away, along each axis."""
    y, x = (slice(part.start - distance, part.stop + distance) for part in window)
    around_YX = np.zeros((y.stop - y.start, x.stop - x.start), np.bool_)
    paint(around_YX, (y, x), (region,), True)
    reach = 2 * distance + 1
    return over(np.logical_or, over(np.logical_or, around_YX, reach, 0), reach, 1)
