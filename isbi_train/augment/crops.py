"""Random crops, varied in one resampling on the training device, then in intensity.

Rotation, flip, scale, shift, elastic displacement and folds are composed into one sampling grid, so that pixels are
interpolated once. Labels are resampled with the same grid and re-thresholded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from isbi_train.augment.section_faults import (
    Folds,
    blur,
    crop_axis,
    defocus,
    draw_defocus,
    draw_dirt,
    draw_folds,
    uniform,
)
from isbi_train.config import AugmentConfig

ALL = slice(None)


def affine_matrices(n: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Draw rotation, flip and scale.

    Parameters
    ----------
    n : int
        How many.
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor of shape (n, 2, 2)
        Maps offsets (x, y) from a crop's centre to offsets in the section, both in pixels.
    """
    angle = uniform(n, -1, 1, generator) * math.radians(config.rotation_deg)
    magnification = torch.exp(uniform(n, math.log(config.scale_min), math.log(config.scale_max), generator))
    mirror = (
        torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0) if config.flip else torch.ones(n)
    )
    cos, sin = torch.cos(angle) / magnification, torch.sin(angle) / magnification
    return torch.stack((torch.stack((cos * mirror, -sin), -1), torch.stack((sin * mirror, cos), -1)), -2)


def elastic_displacement(n: int, crop: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Draw smooth displacements from a coarse grid of control points.

    Parameters
    ----------
    n, crop : int
        How many, and the side of the crop in pixels.
    config : AugmentConfig
        Gives ``elastic_px`` and ``elastic_spacing_px``.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor of shape (n, crop, crop, 2)
        Displacement (x, y) of each crop pixel, in pixels.
    """
    points = max(2, round(crop / config.elastic_spacing_px) + 1)
    coarse = torch.randn(n, 2, points, points, generator=generator) * config.elastic_px
    fine = F.interpolate(coarse, (crop, crop), mode="bicubic", align_corners=True)
    return fine.permute(0, 2, 3, 1)


def sampling_grid(
    n: int,
    crop: int,
    shape: tuple[int, int],
    config: AugmentConfig,
    generator: torch.Generator,
    folds: Folds | None = None,
) -> Tensor:
    """Compose shift, rotation, flip, scale, elastic displacement and folds.

    Parameters
    ----------
    n, crop : int
        How many, and the side of the crop in pixels.
    shape : (int, int)
        The section's (Y, X), in pixels.
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        Source of randomness, on the CPU.
    folds : Folds, optional
        Of these crops.

    Returns
    -------
    Tensor of shape (n, crop, crop, 2)
        Section coordinates (x, y) as `torch.nn.functional.grid_sample` takes them with
        ``align_corners=False``.
    """
    height, width = shape
    axis = crop_axis(crop)
    offsets = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).expand(n, crop, crop, 2)
    offsets = offsets + elastic_displacement(n, crop, config, generator)
    if folds:
        offsets = offsets + folds.displacement_NYX2
    offsets = torch.einsum("nij,nyxj->nyxi", affine_matrices(n, config, generator), offsets)
    room = torch.tensor([max(width - crop, 0), max(height - crop, 0)], dtype=torch.float32)
    shift = (torch.rand(n, 2, generator=generator) - 0.5) * room
    return (offsets + shift[:, None, None, :]) * 2 / torch.tensor([width, height], dtype=torch.float32)


def vary_intensity(
    crops_NCYX: Tensor, config: AugmentConfig, generator: torch.Generator, *, n: int = 0, kept: slice = ALL
) -> Tensor:
    """Blur, then vary gamma, contrast and brightness, then add noise, each crop on its own.

    Parameters
    ----------
    crops_NCYX : Tensor of shape (N, 1, Y, X)
        Normalised grey values.
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        Source of randomness, on the CPU.
    n, kept : int and slice
        Where the crops are only the `kept` ones of a larger batch: the length of that batch.

    Returns
    -------
    Tensor of shape (N, 1, Y, X)
        Normalised grey values, about as wide as before.
    """
    n, device = n or len(crops_NCYX), crops_NCYX.device

    def draw(low: float, high: float) -> Tensor:
        return uniform(n, low, high, generator)[kept].to(device)[:, None, None, None]

    crops_NCYX = blur(crops_NCYX, uniform(n, 0, config.blur_px, generator)[kept].to(device))
    exponent = torch.exp(draw(-config.gamma, config.gamma))
    # The exponent acts on [0, 1]; +-3 standard deviations hold nearly all grey values.
    unit = ((crops_NCYX + 3) / 6).clamp(0, 1)
    crops_NCYX = unit.pow(exponent) * 6 - 3 + (0.5 - 0.5**exponent) * 6
    crops_NCYX = crops_NCYX * torch.exp(draw(-config.contrast, config.contrast))
    crops_NCYX = crops_NCYX + draw(-config.brightness, config.brightness)
    noise = torch.randn((n, *crops_NCYX.shape[1:]), generator=generator)[kept].to(device)
    return crops_NCYX + noise * draw(0, config.noise)


def random_crops(
    images_NCYX: Tensor,
    maps_NKYX: Tensor,
    crop: int,
    config: AugmentConfig,
    generator: torch.Generator,
    *,
    kept: slice = ALL,
) -> tuple[Tensor, Tensor]:
    """Draw one varied crop from each given section.

    Parameters
    ----------
    images_NCYX : Tensor of float, shape (N, 1, Y, X)
        Normalised sections, on the training device.
    maps_NKYX : Tensor of float, shape (N, K, Y, X)
        The first are labels: 1 = cell interior, 0 = membrane. The others, such as weights, may have any values.
    crop : int
        Side of the crops, in pixels.
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        Source of randomness, on the CPU, so that a seed gives the same crops on every device.
    kept : slice
        Compute only these of the N crops; they do not depend on which others are kept.

    Returns
    -------
    (Tensor, Tensor)
        Crops of shape (N, 1, crop, crop), and their maps of shape (N, K, crop, crop): labels of 0 and 1, the other
        maps interpolated.
    """
    n, _, height, width = images_NCYX.shape
    device = images_NCYX.device
    folds = draw_folds(n, crop, config, generator)
    grid = sampling_grid(n, crop, (height, width), config, generator, folds)[kept].to(device)
    both = torch.cat((images_NCYX[kept], maps_NKYX[kept]), dim=1)
    sampled = F.grid_sample(both, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    image, label, others = sampled[:, :1], (sampled[:, 1:2] > 0.5).to(sampled.dtype), sampled[:, 2:]
    for darkening_NYX in (
        folds.darkening_NYX if folds else None,
        draw_dirt(n, crop, config, generator),
    ):
        if darkening_NYX is not None:
            image = image - darkening_NYX[kept, None].to(device)
    blurred = draw_defocus(n, crop, config, generator)
    if blurred is not None:
        share_NYX, sigma_N = blurred
        image = defocus(image, share_NYX[kept], sigma_N[kept], math.ceil(3 * config.defocus_px))
    return vary_intensity(image, config, generator, n=n, kept=kept), torch.cat((label, others), dim=1)
