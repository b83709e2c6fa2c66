"""Crops out of sections of different sizes: each is sampled from the window of its section that it shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_MARGIN = 2  # pixels, that the averages of two by two at a window's edge have neighbours
_COARSE = 1.5  # pixels of a section to one of a crop, from which on they are averaged first


def sample_sections(maps: Sequence[Sequence[Tensor]], grid_NYX2: Tensor) -> Tensor:
    """Sample each crop from its section, mirrored beyond the edges.

    Where a crop shows its section at less than two thirds of its size, pixels are averaged two by two first, so that
    nothing aliases.

    Parameters
    ----------
    maps : sequence of sequences of Tensor, each of shape (K, Y, X)
        For each of the N crops the image of its section and what else is resampled with it, of any dtype.
    grid_NYX2 : Tensor of shape (N, crop, crop, 2)
        Section coordinates (x, y) as `torch.nn.functional.grid_sample` takes them with ``align_corners=False``.

    Returns
    -------
    Tensor of float32, shape (N, sum of K, crop, crop)
    """
    return torch.stack([_sampled(parts, grid) for parts, grid in zip(maps, grid_NYX2, strict=True)])


def _sampled(parts: Sequence[Tensor], grid_YX2: Tensor) -> Tensor:
    height, width = parts[0].shape[-2:]
    size = grid_YX2.new_tensor([width, height])
    place_YX2 = (grid_YX2 + 1) * size / 2 - 0.5  # in pixels of the section
    middle = len(place_YX2) // 2
    step = torch.linalg.vector_norm(place_YX2[middle, middle] - place_YX2[middle, middle - 1]).item()
    (first_x, first_y), (last_x, last_y) = (
        place_YX2.amin((0, 1)).floor().int().tolist(),
        (place_YX2.amax((0, 1)).floor().int() + 1).tolist(),
    )
    left, right = _window(first_x, last_x, width)
    top, bottom = _window(first_y, last_y, height)
    window_1KYX = torch.cat([part[:, top:bottom, left:right].float() for part in parts])[None]
    corner, extent = size.new_tensor([left, top]), size.new_tensor([right - left, bottom - top])
    if step > _COARSE and min(right - left, bottom - top) > 2:
        odd_y, odd_x = (bottom - top) % 2, (right - left) % 2
        window_1KYX = F.avg_pool2d(F.pad(window_1KYX, (0, odd_x, 0, odd_y), mode="replicate"), 2)
        extent = extent + extent % 2
    grid_1YX2 = ((place_YX2 - corner + 0.5) * 2 / extent - 1)[None]
    return F.grid_sample(
        window_1KYX, grid_1YX2, mode="bilinear", padding_mode="reflection", align_corners=False
    )[0]


def _window(first: int, last: int, size: int) -> tuple[int, int]:
    """Return which pixels of an axis are read for those from first to last, mirrored at its ends."""
    if first < -size or last >= 2 * size or (first < 0 and last >= size):
        return 0, size
    start, stop = max(0, first - _MARGIN), min(size, last + 1 + _MARGIN)
    if first < 0:
        stop = max(stop, min(size, 1 - first))
    if last >= size:
        start = max(0, min(start, 2 * size - 2 - last))
    return start, stop
