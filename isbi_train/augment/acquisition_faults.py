"""What goes wrong with a section in the microscope and after it, drawn crop by crop.

Seams, knife marks, charging streaks, uneven shading, grain, blocks of lossy compression, and canvas. As in
`isbi_train.augment.section_faults`, each has its own probability or strength, and draws nothing where that is zero.
Coordinates are (x, y) in pixels from a crop's centre; grey values are in standard deviations of the section.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from isbi_train.augment.section_faults import blur, crop_axis, distances, happens, lines, uniform
from isbi_train.config import AugmentConfig

_MARKS = 3
_BLOCK = 8
_BLACK_STD = 4.0  # black lies about so many standard deviations below a section's mean
_GREYS_PER_STD = 40.0  # of an 8-bit image; its standard deviation is 25 to 50 grey values


@dataclass(frozen=True, slots=True)
class Seams:
    """Seams of a batch of crops, where two images were stitched.

    Attributes
    ----------
    displacement_NYX2 : Tensor of shape (N, Y, X, 2)
        Where each pixel's tissue comes from, relative to a section without seam, in pixels.
    brightness_NYX : Tensor of shape (N, Y, X)
        To be added to the grey values.
    """

    displacement_NYX2: Tensor
    brightness_NYX: Tensor


def draw_seams(n: int, crop: int, config: AugmentConfig, generator: torch.Generator) -> Seams | None:
    """Draw seams: beyond a line the tissue is displaced by a few pixels and of another brightness.

    Parameters
    ----------
    n, crop : int
        How many, and the side of the crop in pixels.
    config : AugmentConfig
        Gives ``seam_probability``, ``seam_shift_px`` and ``seam_brightness``.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Seams or None
        None where there are none.
    """
    if config.seam_probability == 0:
        return None
    happens_N = happens(n, config.seam_probability, generator)
    normal_N2, offset_N = lines(n, crop, generator)
    shift_N2 = uniform(2 * n, -1, 1, generator).reshape(n, 2) * config.seam_shift_px
    step_N = uniform(n, -1, 1, generator) * config.seam_brightness
    if not happens_N.any():
        return None
    beyond_NYX = (distances(normal_N2, offset_N, crop) > 0).float() * happens_N[:, None, None]
    return Seams(
        displacement_NYX2=beyond_NYX[..., None] * shift_N2[:, None, None],
        brightness_NYX=beyond_NYX * step_N[:, None, None],
    )


def draw_knife_marks(n: int, crop: int, config: AugmentConfig, generator: torch.Generator) -> Tensor | None:
    """Draw knife marks: up to three thin, parallel scratches, each dark or bright.

    Parameters
    ----------
    n, crop : int
        How many crops, and their side in pixels.
    config : AugmentConfig
        Gives ``knife_probability``, ``knife_width_px`` and ``knife_contrast``.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor of shape (N, Y, X), or None
        To be added to the grey values; None where there are none.
    """
    if config.knife_probability == 0:
        return None
    happens_N = happens(n, config.knife_probability, generator)
    normal_N2, offset_N = lines(n, crop, generator)
    apart_NM = uniform(n * _MARKS, -0.3, 0.3, generator).reshape(n, _MARKS) * crop
    width_NM = uniform(n * _MARKS, 0.3, 1.0, generator).reshape(n, _MARKS) * config.knife_width_px
    depth_NM = uniform(n * _MARKS, -1.0, 1.0, generator).reshape(n, _MARKS) * config.knife_contrast
    count_N = torch.randint(1, _MARKS + 1, (n,), generator=generator)
    if not happens_N.any():
        return None
    depth_NM = depth_NM * happens_N[:, None] * (torch.arange(_MARKS) < count_N[:, None])
    marks_NYX = torch.zeros(n, crop, crop)
    for i in happens_N.nonzero()[:, 0].tolist():
        distance_1YX = distances(normal_N2[i : i + 1], offset_N[i : i + 1], crop)
        for mark in range(int(count_N[i])):
            across_YX = (distance_1YX[0] - apart_NM[i, mark]) / width_NM[i, mark]
            marks_NYX[i] += torch.exp(-0.5 * across_YX**2) * depth_NM[i, mark]
    return marks_NYX


def draw_streaks(n: int, crop: int, config: AugmentConfig, generator: torch.Generator) -> Tensor | None:
    """Draw charging streaks: whole scan lines, along either axis, that are brighter or darker than the others.

    Parameters
    ----------
    n, crop : int
        How many crops, and their side in pixels.
    config : AugmentConfig
        Gives ``streak_probability`` and ``streak_contrast``.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor of shape (N, Y, X), or None
        To be added to the grey values; None where there are none.
    """
    if config.streak_probability == 0:
        return None
    happens_N = happens(n, config.streak_probability, generator)
    coarse_NL = torch.randn(n, max(2, crop // 4), generator=generator)
    fine_NL = torch.randn(n, crop, generator=generator)
    strength_N = uniform(n, 0.1, 1.0, generator) * config.streak_contrast * happens_N
    along_x_N = torch.rand(n, generator=generator) < 0.5
    if not happens_N.any():
        return None
    smooth_NL = F.interpolate(coarse_NL[:, None], crop, mode="linear", align_corners=True)[:, 0]
    # Most lines are as they should be: only what stands out stays.
    line_NL = F.softshrink(0.8 * smooth_NL + 0.4 * fine_NL, 0.7) * strength_N[:, None]
    rows, columns = line_NL[:, :, None], line_NL[:, None, :]
    shape = (n, crop, crop)
    return torch.where(along_x_N[:, None, None], rows.expand(shape), columns.expand(shape))


def draw_shading(n: int, crop: int, config: AugmentConfig, generator: torch.Generator) -> Tensor | None:
    """Draw shading: brightness that changes slowly over a crop.

    Parameters
    ----------
    n, crop : int
        How many crops, and their side in pixels.
    config : AugmentConfig
        Gives ``shading``.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor of shape (N, Y, X), or None
        To be added to the grey values; None where there is none.
    """
    if config.shading == 0:
        return None
    coarse_N1YX = uniform(n * 9, -1, 1, generator).reshape(n, 1, 3, 3)
    strength_N = uniform(n, 0, config.shading, generator)
    fine_N1YX = F.interpolate(coarse_N1YX, (crop, crop), mode="bilinear", align_corners=True)
    return fine_N1YX[:, 0] * strength_N[:, None, None]


def grain(
    noise_NCYX: Tensor, config: AugmentConfig, generator: torch.Generator, *, n: int, kept: slice
) -> Tensor:
    """Correlate the noise of neighbouring pixels, as an image has that was recorded with other pixels.

    Parameters
    ----------
    noise_NCYX : Tensor of shape (N, C, Y, X)
        White, of variance 1; the `kept` crops of a batch.
    config : AugmentConfig
        Gives ``grain_px``.
    generator : torch.Generator
        Source of randomness, on the CPU.
    n, kept : int and slice
        Length of the batch, and the crops of it.

    Returns
    -------
    Tensor of shape (N, C, Y, X)
        Of variance 1.
    """
    if config.grain_px == 0:
        return noise_NCYX
    sigma_N = (uniform(n, -1, 1, generator).clamp_min(0) * config.grain_px)[kept].to(noise_NCYX.device)
    grainy = (sigma_N > 0.2).nonzero()[:, 0]  # less changes nothing
    if len(grainy) == 0:
        return noise_NCYX
    smooth_NCYX = blur(noise_NCYX[grainy], sigma_N[grainy], radius=3)
    smooth_NCYX = smooth_NCYX / smooth_NCYX.std((1, 2, 3), keepdim=True).clamp_min(1e-3)
    return noise_NCYX.index_copy(0, grainy, smooth_NCYX)


def shot_noise(noise_NCYX: Tensor, crops_NCYX: Tensor, share: float) -> Tensor:
    """Make noise stronger where an image is bright, as counting electrons does.

    The variance of a count is the count, so that of a recorded grey value rises linearly with it from where no electron
    arrives; what an amplifier adds is the same everywhere.

    Parameters
    ----------
    noise_NCYX : Tensor of shape (N, C, Y, X)
        Of variance 1.
    crops_NCYX : Tensor of the same shape
        The grey values that it will be added to, in standard deviations from the section's mean.
    share : float
        Of the variance, 0 to 1, that is counting's.

    Returns
    -------
    Tensor of the same shape
        Of variance 1 at the section's mean.
    """
    counted = (1 + crops_NCYX / _BLACK_STD).clamp_min(0)
    return noise_NCYX * (1 - share + share * counted).sqrt()


def compress(
    crops_NCYX: Tensor, config: AugmentConfig, generator: torch.Generator, *, n: int, kept: slice
) -> Tensor:
    """Quantise some crops as JPEG does: the cosine transform of each block of 8 by 8 pixels, coarser the finer.

    Parameters
    ----------
    crops_NCYX : Tensor of shape (N, C, Y, X)
        Grey values; the `kept` crops of a batch.
    config : AugmentConfig
        Gives ``blocks_probability`` and ``blocks_strength``.
    generator : torch.Generator
        Source of randomness, on the CPU.
    n, kept : int and slice
        Length of the batch, and the crops of it.

    Returns
    -------
    Tensor of shape (N, C, Y, X)
        Beyond the last whole block as it was.
    """
    if config.blocks_probability == 0:
        return crops_NCYX
    happens_N = happens(n, config.blocks_probability, generator)[kept]
    strength_N = (uniform(n, 0.1, 1.0, generator) * config.blocks_strength)[kept]
    chosen = happens_N.nonzero()[:, 0]
    if len(chosen) == 0:
        return crops_NCYX
    device = crops_NCYX.device
    side = crops_NCYX.shape[-1] // _BLOCK * _BLOCK
    cosines = _cosines().to(device)
    frequency = torch.arange(_BLOCK, device=device)
    coarseness = 1 + frequency[:, None] + frequency
    # Steps of 8-bit grey values, as the luminance table of ITU-T T.81, annex K, rises with frequency: 16 to 100.
    steps = (8 + 6 * coarseness) / _GREYS_PER_STD * strength_N[chosen].to(device)[(..., *[None] * 5)]
    chosen = chosen.to(device)
    part = crops_NCYX[chosen]
    blocks = part[..., :side, :side].unflatten(3, (-1, _BLOCK)).unflatten(2, (-1, _BLOCK)).transpose(3, 4)
    coefficients = cosines @ blocks @ cosines.T
    blocks = cosines.T @ ((coefficients / steps).round() * steps) @ cosines
    part[..., :side, :side] = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return crops_NCYX.index_copy(0, chosen, part)


@cache
def _cosines() -> Tensor:
    """Return the orthonormal cosine transform of 8 values, of shape (frequency, place)."""
    place, frequency = torch.arange(_BLOCK) + 0.5, torch.arange(_BLOCK)
    matrix = torch.cos(math.pi / _BLOCK * frequency[:, None] * place) * math.sqrt(2 / _BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix


def draw_canvas(
    n: int, crop: int, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """Draw canvas: one side of a line, or a rectangle, that shows no tissue.

    Parameters
    ----------
    n, crop : int
        How many crops, and their side in pixels.
    config : AugmentConfig
        Gives ``canvas_probability``.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    (Tensor of bool, shape (N, Y, X), Tensor of shape (N,)), or None
        Where canvas is, and its grey value: in half of the crops the section's mean, which is what canvas is filled
        with before a network sees it. None where there is none.
    """
    if config.canvas_probability == 0:
        return None
    happens_N = happens(n, config.canvas_probability, generator)
    normal_N2, offset_N = lines(n, crop, generator)
    centre_N2 = uniform(2 * n, -0.5, 0.5, generator).reshape(n, 2) * crop
    side_N2 = uniform(2 * n, 0.05, 0.2, generator).reshape(n, 2) * crop
    grey_N = uniform(n, -3, 3, generator) * (torch.rand(n, generator=generator) < 0.5)
    edge_N = torch.rand(n, generator=generator) < 0.5
    if not happens_N.any():
        return None
    # A line near the centre would leave too little tissue to learn from.
    far_N = offset_N.abs().clamp_min(0.15 * crop)
    beyond_NYX = distances(normal_N2, far_N, crop) > 0
    axis = crop_axis(crop)
    x_NX = (axis - centre_N2[:, :1]).abs() < side_N2[:, :1]
    y_NY = (axis - centre_N2[:, 1:]).abs() < side_N2[:, 1:]
    within_NYX = y_NY[:, :, None] & x_NX[:, None, :]
    canvas_NYX = torch.where(edge_N[:, None, None], beyond_NYX, within_NYX)
    return canvas_NYX & (happens_N > 0)[:, None, None], grey_N
