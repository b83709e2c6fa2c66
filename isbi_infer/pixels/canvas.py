"""What of a section is no tissue: the canvas that aligned sections stand in, no-data values, blank sections.

Canvas is a large connected region of exactly one grey value that ends abruptly. Tissue that was clipped to black or
white is flat too, but in smaller and ragged patches, beyond which the grey value changes slowly::

    windows of 32 x 32 equal pixels,  ->  grown through windows of 4 x 4  ->  judged by the step at its rim
    a corner or a long edge               equal pixels                        (unless it holds a long edge)

All that is done is comparing neighbours, so the canvas turns and flips with the section.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Section = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

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
_GREATEST_GREY = 1e30  # floats beyond it mean "no data" in every program
_NO_DATA = 8  # px, side of the smallest patch where a no-data value is a grey value too
_TISSUE = 16  # px, side of the smallest square that counts as tissue left
_LAGS = (4, 7, 16)  # px
_BAND = 2**16  # pixels at a time, so that temporaries stay small


def find_canvas(
    section_YX: Section, *, nodata: float | None = None, mask_YX: Mask | None = None
) -> Mask | None:
    """Find the pixels of a section that are no tissue.

    Parameters
    ----------
    section_YX : ndarray, shape (Y, X), integer or floating dtype
        Grey values. Those of no tissue may be NaN where `mask_YX` or `nodata` says so.
    nodata : float, optional
        The value that stands for "no data", as GDAL's tag has it. Where it could be a grey value as well, as 0 in an
        8-bit section, it counts only in patches of 8 x 8 pixels and more.
    mask_YX : ndarray of bool, shape (Y, X), optional
        True where the section is known to have no tissue.

    Returns
    -------
    ndarray of bool, shape (Y, X), or None
        True where there is no tissue, everywhere in a blank section; None where all is tissue.
    """
    known_YX = _no_data(section_YX, nodata, mask_YX)
    regions = _flat_regions(section_YX, known_YX)
    if known_YX is None and not regions:
        return None
    canvas_YX = np.zeros(section_YX.shape, np.bool_) if known_YX is None else known_YX
    for region in regions:
        canvas_YX[region.box] |= region.mask_YX
    if not canvas_YX.any():
        return None
    side = min(_TISSUE, *section_YX.shape)
    if not _all_of(_all_of(~canvas_YX, side, 0), side, 1).any():
        canvas_YX[...] = True
    return canvas_YX


def has_structure(section_YX: Section, canvas_YX: Mask | None = None, offset: float = 0.0) -> bool:
    """Whether a section shows more than the noise of a camera.

    Pixels 4 apart are more alike than pixels 16 apart in every tissue: by 10 % of their mean squared difference at
    least, as measured at 4 to 16 nm per pixel, and by 6 % below noise of twice its contrast. In noise, whether or not
    it was interpolated or lies on a gradient of light, the two differ by 2.5 % at most.

    Parameters
    ----------
    section_YX : ndarray, shape (Y, X), integer or floating dtype
        Grey values, without outliers.
    canvas_YX : ndarray of bool, shape (Y, X), optional
        Pixels that are left out.
    offset : float
        A grey value of the tissue; differences from it are taken in float64.

    Returns
    -------
    bool
        True also where there are too few pixels to tell.
    """
    if section_YX.size < 2 * 128**2:
        return True
    # A quarter of the rows suffices to see what nearly every section shows; only all pixels can exclude it.
    if (
        _largest_ratio([_differences_along_rows(section_YX[::4], canvas_YX, offset, 4, lag) for lag in _LAGS])
        > 1.2
    ):
        return True
    turned_YX = None if canvas_YX is None else canvas_YX.T
    along = [_differences_along_rows(section_YX, canvas_YX, offset, 1, lag) for lag in _LAGS]
    across = [_differences_along_rows(section_YX.T, turned_YX, offset, 1, lag) for lag in _LAGS]
    both = [(a + b, n + m) for (a, n), (b, m) in zip(along, across, strict=True)]
    return min(count for _, count in both) < 2 * 128**2 or _largest_ratio(both) > 1.03


def _largest_ratio(sums: list[tuple[float, int]]) -> float:
    means = [total / max(count, 1) for total, count in sums]
    return max(means) / min(means) if min(means) else np.inf


def _differences_along_rows(
    section_YX: Section, canvas_YX: Mask | None, offset: float, every: int, lag: int
) -> tuple[float, int]:
    """Sum and count squared differences of pixels `lag` apart; the section's rows are every so many of the canvas."""
    total, count = 0.0, 0
    rows = max(1, _BAND // section_YX.shape[1])
    for start in range(0, len(section_YX), rows):
        band_YX = section_YX[start : start + rows]
        if section_YX.dtype.itemsize > 2:  # before float32 loses what is small beside a large offset
            band_YX = band_YX - np.float64(offset)
        if canvas_YX is not None:
            tissue_YX = ~canvas_YX[start * every : (start + rows) * every : every]
            band_YX = np.where(tissue_YX, band_YX, 0)
        band_YX = band_YX.astype(np.float32)
        difference_YX = band_YX[:, lag:] - band_YX[:, :-lag]
        if canvas_YX is not None:
            both_YX = tissue_YX[:, lag:] & tissue_YX[:, :-lag]
            difference_YX *= both_YX
            count += int(np.count_nonzero(both_YX))
        else:
            count += difference_YX.size
        total += float(np.vdot(difference_YX, difference_YX))
    return total, count


def _no_data(section_YX: Section, nodata: float | None, mask_YX: Mask | None) -> Mask | None:
    """Find what is known to be no tissue, whatever its shape."""
    found: list[Mask] = [] if mask_YX is None else [np.array(mask_YX, np.bool_)]
    if section_YX.dtype.kind == "f":
        limit = np.finfo(section_YX.dtype).max if section_YX.dtype.itemsize == 2 else _GREATEST_GREY
        found += [~(np.abs(section_YX) < limit)] if nodata is not None and np.isnan(nodata) else []
        found += [np.abs(section_YX) >= limit]
    if nodata is not None and not np.isnan(nodata):
        value = section_YX.dtype.type(nodata) if section_YX.dtype.kind == "f" else nodata
        equal_YX = section_YX == value
        others = section_YX[~(np.logical_or.reduce([equal_YX, *found]))]
        if equal_YX.any() and others.size:
            middle = float(np.median(others))
            nearest = float(others.min() if nodata < middle else others.max())
            alone = nodata != middle and abs(nodata - nearest) > abs(nearest - middle)
            equal_YX = equal_YX if alone else _opened(equal_YX, _NO_DATA)
        found.append(equal_YX)
    found = [mask for mask in found if mask.any()]
    return np.logical_or.reduce(found) if found else None


@dataclass(frozen=True, slots=True)
class _Region:
    """A connected region of one value: its bounding box in the section, and its pixels there."""

    value: float
    box: tuple[slice, slice]
    mask_YX: Mask
    touches: bool  # a long edge of the section


def _flat_regions(section_YX: Section, known_YX: Mask | None) -> list[_Region]:
    """Find the regions of one value that are canvas."""
    if min(section_YX.shape) < 2 * _THIN:
        return []
    side = min(_SOLID, max(2 * _THIN, min(section_YX.shape) // 2))
    solid = _origins(_flat_windows(section_YX, side), section_YX.shape)
    contact, corners = _edge_contacts(section_YX), _flat_corners(section_YX)
    if not (len(solid) or len(contact) or len(corners)):
        return []
    runs = _Runs.of(section_YX)
    touching = set(runs.region_at(contact).tolist())
    cornered = set(runs.region_at(corners).tolist())
    candidates = touching.union(cornered, runs.region_at(solid).tolist())
    if len(candidates) > _MOST_REGIONS:
        candidates = touching | cornered
    cornered -= touching.union(runs.region_at(solid).tolist())
    found = ((index, runs.region(index, section_YX, index in touching)) for index in sorted(candidates))
    regions = [region for index, region in found if index not in cornered or region.mask_YX.sum() >= _CORNER]
    regions = [region for region in regions if abs(region.value) < _GREATEST_GREY]
    return _abrupt(section_YX, regions, known_YX)


def _flat_windows(section_YX: Section, side: int) -> Iterator[tuple[int, Mask]]:
    """Yield, band by band, the first row and whether a window of `side` x `side` equal pixels starts at each pixel."""
    height, width = section_YX.shape
    rows = max(4 * side, _BAND // width)
    for start in range(0, height - side + 1, rows):
        band_YX = section_YX[start : min(start + rows + side - 1, height)]
        flat_YX = _all_of(band_YX[:, 1:] == band_YX[:, :-1], side - 1, 1)
        if flat_YX.any():
            down_YX = band_YX[1:, : flat_YX.shape[1]] == band_YX[:-1, : flat_YX.shape[1]]
            yield start, _all_of(flat_YX[1:] & flat_YX[:-1] & down_YX, side - 1, 0)


def _all_of(mask: Mask, count: int, axis: int) -> Mask:
    """Return for each place whether `count` values from there along an axis are all true."""
    return _over(np.logical_and, mask, count, axis)


def _over(operation: np.ufunc, mask: Mask, count: int, axis: int) -> Mask:
    done = 1
    while done < count and mask.shape[axis]:
        step = min(done, count - done)
        early, late = (
            (slice(None),) * axis + (slice(None, -step),),
            (slice(None),) * axis + (slice(step, None),),
        )
        mask = operation(mask[early], mask[late])
        done += step
    return mask


def _dilated(mask_YX: Mask, before: int, after: int) -> Mask:
    """Widen by so many pixels towards the beginning and the end of both axes; the result is larger by as much."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (before + after, before + after)
        mask_YX = _over(np.logical_or, np.pad(mask_YX, pad), before + after + 1, axis)
    return mask_YX


def _opened(mask_YX: Mask, side: int) -> Mask:
    """Keep what some square of true pixels covers."""
    if min(mask_YX.shape) < side:
        return np.zeros_like(mask_YX)
    return _dilated(_all_of(_all_of(mask_YX, side, 0), side, 1), 0, side - 1)


def _origins(bands: Iterator[tuple[int, Mask]], shape: tuple[int, ...]) -> Indices:
    """List where runs of windows start, as places in rows one pixel longer than the section."""
    return np.concatenate([np.zeros(0, np.intp), *(starts for starts, _ in _row_runs(bands, shape))])


def _row_runs(bands: Iterator[tuple[int, Mask]], shape: tuple[int, ...]) -> Iterator[tuple[Indices, Indices]]:
    """Yield starts and ends of the runs along rows, as places in rows one pixel longer than the section."""
    stride = shape[1] + 1
    for first, mask_YX in bands:
        line = np.zeros((len(mask_YX), stride), np.bool_)
        line[:, 1 : 1 + mask_YX.shape[1]] = mask_YX
        change = np.flatnonzero(line.ravel()[1:] != line.ravel()[:-1]) + first * stride
        yield change[::2], change[1::2]


def _flat_corners(section_YX: Section) -> Indices:
    """List the places of the section's corners where a window is flat."""
    height, width = section_YX.shape
    places = [(y, x) for y in (0, height - _THIN) for x in (0, width - _THIN)]
    flat = [(section_YX[y : y + _THIN, x : x + _THIN] == section_YX[y, x]).all() for y, x in places]
    return np.array(
        [y * (width + 1) + x for (y, x), is_flat in zip(places, flat, strict=True) if is_flat], np.intp
    )


def _edge_contacts(section_YX: Section) -> Indices:
    """List places on the section's edges where a long run of equal pixels starts."""
    height, width = section_YX.shape
    found = [np.zeros(0, np.intp)]
    for edge, first, step in (
        (section_YX[0], 0, 1),
        (section_YX[-1], (height - 1) * (width + 1), 1),
        (section_YX[:, 0], 0, width + 1),
        (section_YX[:, -1], width - 1, width + 1),
    ):
        contact = max(len(edge) // 4, min(_CONTACT, len(edge) // 2))
        found.append(first + step * np.flatnonzero(_all_of(edge[1:] == edge[:-1], contact - 1, 0)))
    return np.concatenate(found)


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
    def of(cls, section_YX: Section) -> _Runs:
        wide_YX = np.pad(section_YX, _MARGIN, mode="edge")
        pairs = list(_row_runs(_flat_windows(wide_YX, _THIN), wide_YX.shape))
        starts, ends = (np.concatenate(part) for part in zip(*pairs, strict=True))
        stride = wide_YX.shape[1] + 1
        first = np.searchsorted(ends, starts + stride, "right")  # of the runs below that overlap
        count = np.maximum(np.searchsorted(starts, ends + stride, "left") - first, 0)
        upper = np.repeat(np.arange(len(starts)), count)
        lower = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
        return cls(section_YX.shape, stride, starts, ends, _connected(len(starts), upper, lower))

    def region_at(self, places: Indices) -> Indices:
        """Find the regions of flat windows, by the places where they start in rows one longer than the section's."""
        y, x = np.divmod(places, self.shape[1] + 1)
        y, x = (np.where(at == 0, at, at + _MARGIN) for at in (y, x))
        places = y * self.stride + x
        return self.regions[np.searchsorted(self.starts, places, "right") - 1]

    def region(self, index: int, section_YX: Section, touches: bool) -> _Region:
        of_it = self.regions == index
        starts, ends = self.starts[of_it], self.ends[of_it]
        (rows, left), right = np.divmod(starts, self.stride), ends - starts // self.stride * self.stride
        top, first = int(rows[0]), int(left.min())
        height, width = int(rows[-1]) - top + 1, int(right.max()) - first
        line = (rows - top) * width - first
        changes = np.column_stack((line + left, line + right)).ravel()
        lengths = np.diff(changes, prepend=0, append=height * width)
        values = np.arange(len(lengths)) % 2 == 1
        origins_YX = np.repeat(values, lengths).reshape(height, width)
        mask_YX = _dilated(origins_YX, 0, _MARGIN)
        cut = tuple(
            slice(max(0, _MARGIN - start), _MARGIN - start + size)
            for start, size in zip((top, first), self.shape, strict=True)
        )
        box = tuple(
            slice(max(0, start - _MARGIN), min(size, start - _MARGIN + length))
            for start, size, length in zip((top, first), self.shape, mask_YX.shape, strict=True)
        )
        value = float(section_YX[box][mask_YX[cut]][0])
        return _Region(value, (box[0], box[1]), mask_YX[cut], touches)


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


def _abrupt(section_YX: Section, regions: list[_Region], known_YX: Mask | None) -> list[_Region]:
    """Keep regions on a long edge, very large ones, and those that differ from their rim as from tissue anywhere.

    What is kept although its rim is alike has soft edges, as JPEG makes them, and is widened to where they end.
    """
    tissue_YX = np.ones(section_YX.shape, np.bool_) if known_YX is None else ~known_YX
    for region in regions:
        tissue_YX[region.box] &= ~region.mask_YX
    steps: dict[float, float] = {}
    kept = []
    for region in regions:
        if region.value not in steps:
            steps[region.value] = _mean_step(section_YX[tissue_YX], region.value)
        window, near_YX = _surroundings(tissue_YX, region, _RIM)
        rim = section_YX[window][near_YX]
        ragged = np.count_nonzero(rim == region.value) >= _RAGGED * rim.size
        soft = _mean_step(rim, region.value) < _STEP * steps[region.value]
        if not rim.size or not (ragged or soft):
            kept.append(region)
        elif region.touches or _all_of(_all_of(region.mask_YX, _LARGE, 0), _LARGE, 1).any():
            kept.append(region)
            if soft:
                window, near_YX = _surroundings(tissue_YX, region, _BLUR)
                difference_YX = np.abs(section_YX[window] - np.float64(region.value))
                alike_YX = near_YX & (difference_YX < _ALIKE * steps[region.value])
                kept.append(_Region(region.value, window, alike_YX, region.touches))
    return kept


def _surroundings(tissue_YX: Mask, region: _Region, distance: int) -> tuple[tuple[slice, slice], Mask]:
    """Return a window around a region, and where in it there is tissue at most so many pixels from the region."""
    rows, columns = (slice(max(0, part.start - distance), part.stop + distance) for part in region.box)
    near_YX = _dilated(region.mask_YX, distance, distance)
    near_YX = near_YX[
        distance - region.box[0].start + rows.start :, distance - region.box[1].start + columns.start :
    ]
    tissue_YX = tissue_YX[rows, columns]
    return (rows, columns), near_YX[: tissue_YX.shape[0], : tissue_YX.shape[1]] & tissue_YX


def _mean_step(pixels: Section, value: float) -> float:
    return float(np.abs(pixels - np.float64(value)).mean()) if pixels.size else 0.0
