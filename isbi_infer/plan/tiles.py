"""Tiles as frozen values, and the plan that makes them: pure arithmetic on shapes, pixels come later.

One axis of a padded section, cut into two tiles::

    padded   |border|            image             |border + fill|
    tile 0   [ reads ................... ]
             [ owns (padded) ... ]~ halo ~
    tile 1                 ~ halo ~[ owns (padded) ............. ]
                           [ reads ............................. ]

Every padded pixel is owned by exactly one tile. A tile reads ``halo`` pixels beyond what it owns on the sides
where it has a neighbour, and stops flush with the padded section elsewhere, so that its network sees there
just what the whole section's network sees. Origins lie on multiples of the model's stride.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ResourceError, UsageError

Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Tile:
    """One piece of a section.

    Attributes
    ----------
    reads : (slice, slice)
        Input pixels, in the frame of the padded section.
    crop : (slice, slice)
        Output pixels that are kept, in the frame of the tile.
    owns : (slice, slice)
        Where the kept pixels go, in the frame of the image.
    """

    reads: Window
    crop: Window
    owns: Window


@dataclass(frozen=True, slots=True)
class SectionPlan:
    """How a section of one shape is padded and tiled; everything else is derived from these five values.

    Attributes
    ----------
    shape : (int, int)
        The image (Y, X), in pixels.
    stride : int
        What tile origins and sizes are multiples of.
    halo : int
        Pixels of context dropped on sides with a neighbour, a multiple of `stride`.
    border : int
        Mirrored pixels around the image.
    tile_shape : (int, int)
        Shape of every tile's ``reads``: one shape a run, so that kernels are chosen once.
    padded : (int, int)
        Shape of the padded section.
    pad : ((int, int), (int, int))
        Mirrored pixels before and after, per axis.
    tiles : tuple of Tile
        In row-major order; their ``owns`` cover every image pixel exactly once.
    """

    shape: tuple[int, int]
    stride: int
    halo: int
    border: int
    tile_shape: tuple[int, int]
    padded: tuple[int, int] = field(init=False, repr=False, compare=False)
    pad: tuple[tuple[int, int], tuple[int, int]] = field(init=False, repr=False, compare=False)
    tiles: tuple[Tile, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        padded = padded_shape(self.shape, self.border, self.stride)
        (height, width), border = self.shape, self.border
        pad = ((border, padded[0] - height - border), (border, padded[1] - width - border))
        rows, columns = (
            _spans(size, border, length, self.halo, side)
            for size, length, side in zip(self.shape, padded, self.tile_shape, strict=True)
        )
        tiles = tuple(_tile(row, column, self.tile_shape, border) for row in rows for column in columns)
        for name, value in (("padded", padded), ("pad", pad), ("tiles", tiles)):
            object.__setattr__(self, name, value)

    @property
    def overhead(self) -> float:
        """Pixels computed per pixel of the image; 1.0 is ideal."""
        return len(self.tiles) * self.tile_shape[0] * self.tile_shape[1] / (self.shape[0] * self.shape[1])

    def touching(self, window: Window) -> tuple[Tile, ...]:
        """Return the tiles that own any pixel of a window of the image."""
        return tuple(
            tile
            for tile in self.tiles
            if all(
                own.start < part.stop and part.start < own.stop
                for own, part in zip(tile.owns, window, strict=True)
            )
        )

    def fitted(self, shape: tuple[int, int]) -> SectionPlan:
        """Return the plan of a smaller section with tiles of the same shape, or less where the section is less.

        Parameters
        ----------
        shape : (int, int)
            (Y, X) in pixels, as of a section that was cut to its tissue.
        """
        if shape == self.shape:
            return self
        padded = padded_shape(shape, self.border, self.stride)
        tile_shape = (min(self.tile_shape[0], padded[0]), min(self.tile_shape[1], padded[1]))
        return SectionPlan(shape, self.stride, self.halo, self.border, tile_shape)

    def split(self, tile: Tile) -> tuple[Tile, ...]:
        """Cut a tile into two that own what it owns, with the same context; for lack of memory.

        Parameters
        ----------
        tile : Tile
            One of this plan, or from an earlier call.

        Returns
        -------
        tuple of Tile
            Two tiles that read less each, cut across the axis along which `tile` reads more; none where no cut makes
            a tile smaller.
        """
        for axis in sorted((0, 1), key=lambda a: -_length(tile.reads[a])):
            owns = tile.owns[axis]
            middle = (owns.start + owns.stop) // 2 + self.border
            cut = middle // self.stride * self.stride - self.border
            if not owns.start < cut < owns.stop:
                continue
            parts = [
                self._part(tile, axis, start, stop) for start, stop in ((owns.start, cut), (cut, owns.stop))
            ]
            if all(_area(part.reads) < _area(tile.reads) for part in parts):
                return tuple(parts)
        return ()

    def _part(self, tile: Tile, axis: int, start: int, stop: int) -> Tile:
        """Return what owns `start` to `stop` of the image along one axis, and the rest as `tile`."""
        first = (start + self.border) // self.stride * self.stride - self.halo
        last = ceil((stop + self.border) / self.stride) * self.stride + self.halo
        read = slice(max(first, 0), min(last, self.padded[axis]))
        crop = slice(start + self.border - read.start, stop + self.border - read.start)
        reads, crops, owns = list(tile.reads), list(tile.crop), list(tile.owns)
        reads[axis], crops[axis], owns[axis] = read, crop, slice(start, stop)
        return Tile((reads[0], reads[1]), (crops[0], crops[1]), (owns[0], owns[1]))


def _length(span: slice) -> int:
    return int(span.stop) - int(span.start)


def _area(window: Window) -> int:
    return _length(window[0]) * _length(window[1])


def padded_shape(shape: tuple[int, int], border: int, stride: int) -> tuple[int, int]:
    """Return the shape of a section with `border` mirrored pixels around it, up to multiples of `stride`."""
    return _round_up(shape[0] + 2 * border, stride), _round_up(shape[1] + 2 * border, stride)


@dataclass(frozen=True, slots=True)
class _Span:
    """One axis of a tile: where it reads (padded frame) and what it owns of the image."""

    read: int
    owns: tuple[int, int]


def _round_up(value: int, multiple: int) -> int:
    return ceil(value / multiple) * multiple


def _tile_side(padded: int, halo: int, stride: int, count: int) -> int:
    """Return the side of the smallest tile that covers an axis with `count` tiles."""
    return _round_up(ceil((padded + 2 * halo * (count - 1)) / count), stride)


def _fewest_tiles(padded: int, halo: int, stride: int, longest: int) -> int:
    """Return the smallest number of tiles of at most `longest` pixels that covers an axis."""
    if padded <= longest:
        return 1
    return ceil((padded - 2 * halo) / (longest // stride * stride - 2 * halo))


def _spans(size: int, border: int, padded: int, halo: int, tile: int) -> list[_Span]:
    """Cut one axis: where each tile reads, and what it owns of the image."""
    if padded <= tile:
        return [_Span(0, (0, size))]
    count = ceil((padded - 2 * halo) / (tile - 2 * halo))
    spans: list[_Span] = []
    start = 0
    for i in range(count):
        origin = min(i * (tile - 2 * halo), padded - tile)
        end = padded if i == count - 1 else origin + tile - halo
        owns = (min(max(start - border, 0), size), min(max(end - border, 0), size))
        spans.append(_Span(origin, owns))
        start = end
    return [span for span in spans if span.owns[0] < span.owns[1]]


def _best_grid(
    padded: tuple[int, int], stride: int, halo: int, longest: int, most_pixels: int
) -> tuple[int, int]:
    """Choose the tile shape that computes the fewest pixels within both limits; the squarest among equals."""
    smallest = _smallest_tile(stride, halo)
    shapes: list[tuple[int, int, int, tuple[int, int]]] = []
    rows = _fewest_tiles(padded[0], halo, stride, longest)
    while True:
        tile_y = _tile_side(padded[0], halo, stride, rows)
        tile_x_limit = min(longest, most_pixels // tile_y)
        if padded[1] <= tile_x_limit or tile_x_limit >= smallest:
            columns = _fewest_tiles(padded[1], halo, stride, tile_x_limit)
            tile_x = _tile_side(padded[1], halo, stride, columns)
            pixels = rows * columns * tile_y * tile_x
            shapes.append((pixels, rows * columns, abs(tile_y - tile_x), (tile_y, tile_x)))
            if columns == 1:
                break  # more rows would only repeat more halo
        if (rows > 1 and tile_y <= smallest) or padded[0] <= smallest:
            break
        rows += 1
    if not shapes:
        raise ResourceError(
            f"the memory allows {most_pixels} pixels a tile, the smallest one has {smallest} x {smallest}; "
            "free some memory, or allow more of it"
        )
    return min(shapes)[3]


def plan_section(
    shape: tuple[int, int],
    *,
    stride: int,
    halo: int,
    border: int,
    tile: int | None = None,
    most_pixels: int | None = None,
) -> SectionPlan:
    """Plan one section: the tiles that compute the fewest pixels within the limits.

    Parameters
    ----------
    shape : (int, int)
        The image (Y, X), in pixels, each at least 1.
    stride : int
        What tile origins and sizes must be multiples of.
    halo : int
        Pixels of context dropped on sides with a neighbour; a multiple of `stride`.
    border : int
        Mirrored pixels around the image that the model was validated with.
    tile : int, optional
        Longest side of a tile, in pixels.
    most_pixels : int, optional
        Largest area of a tile, in pixels: what memory allows.

    Returns
    -------
    SectionPlan

    Raises
    ------
    UsageError
        If `tile` is not a multiple of `stride`, or leaves nothing between two halos.
    ResourceError
        If `most_pixels` allows no tile at all.
    """
    smallest = _smallest_tile(stride, halo)
    if tile is not None and tile % stride:
        nearest = max(round(tile / stride) * stride, smallest)
        raise UsageError(f"tile {tile} is not a multiple of the model's stride {stride}; try {nearest}")
    if tile is not None and tile < smallest:
        raise UsageError(
            f"tile {tile} leaves nothing between two halos of {halo} pixels; use {smallest} or more"
        )
    padded = padded_shape(shape, border, stride)
    longest = max(padded) if tile is None else tile
    largest = padded[0] * padded[1] if most_pixels is None else most_pixels
    tile_shape = _best_grid(padded, stride, halo, longest, largest)
    return SectionPlan(shape, stride, halo, border, tile_shape)


def _smallest_tile(stride: int, halo: int) -> int:
    return 2 * halo + stride


def _tile(span_y: _Span, span_x: _Span, tile_shape: tuple[int, int], border: int) -> Tile:
    spans = (span_y, span_x)
    reads = tuple(slice(s.read, s.read + t) for s, t in zip(spans, tile_shape, strict=True))
    owns = tuple(slice(*s.owns) for s in spans)
    crop = tuple(slice(s.owns[0] + border - s.read, s.owns[1] + border - s.read) for s in spans)
    return Tile((reads[0], reads[1]), (crop[0], crop[1]), (owns[0], owns[1]))


def read_mirrored(
    part_YX: npt.NDArray[Any],
    pad: tuple[tuple[int, int], tuple[int, int]],
    window: Window,
    *,
    shape: tuple[int, ...] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> npt.NDArray[Any]:
    """Read a window of a padded section without padding the section.

    Beyond its edges a section goes on as its reflection about its edge pixels, over and over where it is smaller than
    the padding.

    Parameters
    ----------
    part_YX : ndarray, shape (Y, X)
        The section, or a part of it that holds what `mirrored_source` returns; any dtype.
    pad : ((int, int), (int, int))
        Pixels before and after, per axis.
    window : (slice, slice)
        In the frame of the padded section.
    shape : (int, int), optional
        Of the section; that of `part_YX` when not given.
    origin : (int, int)
        Where in the section the part begins.

    Returns
    -------
    ndarray
        The window's pixels, of the same dtype; a view where it lies within the section.
    """
    shape = shape or part_YX.shape
    starts = [part.start - before for part, (before, _) in zip(window, pad, strict=True)]
    stops = [part.stop - before for part, (before, _) in zip(window, pad, strict=True)]
    if min(starts) >= 0 and all(stop <= size for stop, size in zip(stops, shape, strict=True)):
        rows, columns = (slice(a - o, b - o) for a, b, o in zip(starts, stops, origin, strict=True))
        return part_YX[rows, columns]
    y, x = (
        _mirrored(np.arange(start, stop), size) - first
        for start, stop, size, first in zip(starts, stops, shape, origin, strict=True)
    )
    return part_YX[np.ix_(y, x)]


def mirrored_source(
    pad: tuple[tuple[int, int], tuple[int, int]], window: Window, shape: tuple[int, int]
) -> Window:
    """Return which pixels of a section of some shape a window of the padded section shows."""
    spans = []
    for part, (before, _), size in zip(window, pad, shape, strict=True):
        places = _mirrored(np.arange(part.start - before, part.stop - before), size)
        spans.append(slice(int(places.min()), int(places.max()) + 1))
    return spans[0], spans[1]


def _mirrored(index: npt.NDArray[np.intp], size: int) -> npt.NDArray[np.intp]:
    if size == 1:
        return np.zeros_like(index)
    folded = index % (2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)
