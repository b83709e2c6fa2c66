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

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import UsageError

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
class Plan:
    """How a section of one shape is padded and tiled.

    Attributes
    ----------
    shape : (int, int)
        The image (Y, X).
    pad : ((int, int), (int, int))
        Mirrored pixels before and after, per axis.
    tile_shape : (int, int)
        Shape of every tile's ``reads``: one shape a run, so that kernels are chosen once.
    tiles : tuple of Tile
        In row-major order; their ``owns`` cover every image pixel exactly once.
    """

    shape: tuple[int, int]
    pad: tuple[tuple[int, int], tuple[int, int]]
    tile_shape: tuple[int, int]
    tiles: tuple[Tile, ...]

    @property
    def overhead(self) -> float:
        """Pixels computed per pixel of the image; 1.0 is ideal."""
        return len(self.tiles) * self.tile_shape[0] * self.tile_shape[1] / (self.shape[0] * self.shape[1])


@dataclass(frozen=True, slots=True)
class _Span:
    """One axis of a tile: where it reads (padded frame) and what it owns of the image."""

    read: int
    owns: tuple[int, int]


def _round_up(value: int, multiple: int) -> int:
    return ceil(value / multiple) * multiple


def _plan_axis(size: int, border: int, stride: int, halo: int, tile: int) -> tuple[int, int, list[_Span]]:
    """Give the padded length, the tile length and the spans of one axis."""
    padded = _round_up(size + 2 * border, stride)
    if padded <= tile:
        return padded, padded, [_Span(0, (0, size))]
    count = ceil((padded - 2 * halo) / (tile - 2 * halo))
    # Balanced: the smallest tile that covers the axis with this many tiles.
    tile = _round_up(ceil((padded + 2 * halo * (count - 1)) / count), stride)
    origins = [min(i * (tile - 2 * halo), padded - tile) for i in range(count)]
    spans: list[_Span] = []
    start = 0
    for i, origin in enumerate(origins):
        end = padded if i == count - 1 else origin + tile - halo
        owns = (min(max(start - border, 0), size), min(max(end - border, 0), size))
        spans.append(_Span(origin, owns))
        start = end
    return padded, tile, [span for span in spans if span.owns[0] < span.owns[1]]


def plan_section(shape: tuple[int, int], *, stride: int, halo: int, border: int, tile: int) -> Plan:
    """Plan one section.

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
    tile : int
        Longest side of a tile, in pixels; the planner may choose a smaller, balanced one.

    Returns
    -------
    Plan

    Raises
    ------
    UsageError
        If `tile` is not a multiple of `stride`, or leaves nothing between two halos.
    """
    if tile % stride:
        below = max(tile // stride * stride, _smallest_tile(stride, halo))
        raise UsageError(f"tile {tile} is not a multiple of the model's stride {stride}; try {below}")
    if tile < _smallest_tile(stride, halo):
        raise UsageError(
            f"tile {tile} leaves nothing between two halos of {halo} pixels; "
            f"use {_smallest_tile(stride, halo)} or more"
        )
    padded_y, tile_y, spans_y = _plan_axis(shape[0], border, stride, halo, tile)
    padded_x, tile_x, spans_x = _plan_axis(shape[1], border, stride, halo, tile)
    tiles = tuple(_tile(span_y, span_x, (tile_y, tile_x), border) for span_y in spans_y for span_x in spans_x)
    pad = ((border, padded_y - shape[0] - border), (border, padded_x - shape[1] - border))
    return Plan(shape, pad, (tile_y, tile_x), tiles)


def _smallest_tile(stride: int, halo: int) -> int:
    return 2 * halo + stride


def _tile(span_y: _Span, span_x: _Span, tile_shape: tuple[int, int], border: int) -> Tile:
    spans = (span_y, span_x)
    reads = tuple(slice(s.read, s.read + t) for s, t in zip(spans, tile_shape, strict=True))
    owns = tuple(slice(*s.owns) for s in spans)
    crop = tuple(slice(s.owns[0] + border - s.read, s.owns[1] + border - s.read) for s in spans)
    return Tile((reads[0], reads[1]), (crop[0], crop[1]), (owns[0], owns[1]))


def mirror_pad(
    section_YX: npt.NDArray[np.generic], pad: tuple[tuple[int, int], tuple[int, int]]
) -> npt.NDArray[np.generic]:
    """Pad a section by reflection about its edge pixels, also when it is smaller than the padding.

    Parameters
    ----------
    section_YX : ndarray, shape (Y, X)
        Any dtype.
    pad : ((int, int), (int, int))
        Pixels before and after, per axis.

    Returns
    -------
    ndarray
        The padded section, of the same dtype.
    """
    return np.pad(section_YX, pad, mode="reflect")
