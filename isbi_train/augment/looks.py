"""How other microscopes and programs show the same tissue: curves of grey values, and sharpened images.

Each has its own strength in `isbi_train.config.AugmentConfig`, and draws nothing where that is zero. Grey values are in
standard deviations of the section.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isbi_train.augment.section_faults import blur, uniform
from isbi_train.config import AugmentConfig

_RANGE = 3.0  # standard deviations either way that hold nearly all grey values
_PARTS = 6  # of the range, each with a slope of its own
_WIDEST = 8.0  # pixels; the largest radius of an unsharp mask


def bend_greys(
    crops_NCYX: Tensor, config: AugmentConfig, generator: torch.Generator, *, n: int, kept: slice
) -> Tensor:
    """Bend each crop's grey values by a rising curve: straight pieces, some steeper than others.

    Parameters
    ----------
    crops_NCYX : Tensor of shape (N, C, Y, X)
        Grey values; the `kept` crops of a batch.
    config : AugmentConfig
        Gives ``tone``.
    generator : torch.Generator
        Source of randomness, on the CPU.
    n, kept : int and slice
        Length of the batch, and the crops of it.

    Returns
    -------
    Tensor of shape (N, C, Y, X)
        0, the section's mean, stays; beyond 3 standard deviations the curve goes on as its last pieces do.
    """
    if config.tone == 0:
        return crops_NCYX
    slope_NP = torch.exp(torch.randn(n, _PARTS, generator=generator) * config.tone)[kept]
    slope_NP = slope_NP / slope_NP.mean(1, keepdim=True)
    piece = 2 * _RANGE / _PARTS
    knot_NP = F.pad(slope_NP.cumsum(1)[:, :-1], (1, 0)) * piece
    knot_NP = knot_NP - knot_NP[:, _PARTS // 2, None]  # 0 lies on a knot, as the parts are even in number
    slope_NP, knot_NP = slope_NP.to(crops_NCYX.device), knot_NP.to(crops_NCYX.device)
    position = (crops_NCYX + _RANGE) / piece
    part = position.floor().clamp(0, _PARTS - 1)
    place = part.long().flatten(1)
    steep = slope_NP.gather(1, place).view_as(crops_NCYX)
    return knot_NP.gather(1, place).view_as(crops_NCYX) + (position - part) * piece * steep


def sharpen(
    crops_NCYX: Tensor, config: AugmentConfig, generator: torch.Generator, *, n: int, kept: slice
) -> Tensor:
    """Sharpen half of the crops by an unsharp mask: fine ones emphasise edges, wide ones level the brightness.

    Parameters
    ----------
    crops_NCYX : Tensor of shape (N, C, Y, X)
        Grey values; the `kept` crops of a batch.
    config : AugmentConfig
        Gives ``sharpness``.
    generator : torch.Generator
        Source of randomness, on the CPU.
    n, kept : int and slice
        Length of the batch, and the crops of it.

    Returns
    -------
    Tensor of shape (N, C, Y, X)
        Of the standard deviation that each crop had.
    """
    if config.sharpness == 0:
        return crops_NCYX
    amount_N = (uniform(n, -1, 1, generator).clamp_min(0) * config.sharpness)[kept]
    sigma_N = (_WIDEST ** uniform(n, 0, 1, generator))[kept]
    chosen = amount_N.nonzero()[:, 0]
    if len(chosen) == 0:
        return crops_NCYX
    device = crops_NCYX.device
    amount_N111, sigma_N = amount_N[chosen, None, None, None].to(device), sigma_N[chosen].to(device)
    chosen = chosen.to(device)
    part = crops_NCYX[chosen]
    radius = min(int(3 * _WIDEST), part.shape[-1] - 1)
    sharp = part + amount_N111 * (part - blur(part, sigma_N, radius))
    widths = part.std((1, 2, 3), keepdim=True) / sharp.std((1, 2, 3), keepdim=True).clamp_min(1e-3)
    return crops_NCYX.index_copy(0, chosen, sharp * widths)
