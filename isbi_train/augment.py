"""Random crops, varied in one resampling on the training device, then in intensity.

Rotation, flip, scale, shift and elastic displacement are composed into one sampling grid, so that pixels are
interpolated once. Labels are resampled with the same grid and re-thresholded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from isbi_train.config import AugmentConfig


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


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
    angle = _uniform(n, -1, 1, generator) * math.radians(config.rotation_deg)
    magnification = torch.exp(_uniform(n, math.log(config.scale_min), math.log(config.scale_max), generator))
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
    n: int, crop: int, shape: tuple[int, int], config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """Compose shift, rotation, flip, scale and elastic displacement.

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

    Returns
    -------
    Tensor of shape (n, crop, crop, 2)
        Section coordinates (x, y) as `torch.nn.functional.grid_sample` takes them with
        ``align_corners=False``.
    """
    height, width = shape
    axis = torch.arange(crop, dtype=torch.float32) - (crop - 1) / 2
    offsets = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).expand(n, crop, crop, 2)
    offsets = offsets + elastic_displacement(n, crop, config, generator)
    offsets = torch.einsum("nij,nyxj->nyxi", affine_matrices(n, config, generator), offsets)
    room = torch.tensor([max(width - crop, 0), max(height - crop, 0)], dtype=torch.float32)
    shift = (torch.rand(n, 2, generator=generator) - 0.5) * room
    return (offsets + shift[:, None, None, :]) * 2 / torch.tensor([width, height], dtype=torch.float32)


def vary_intensity(crops_NCYX: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Blur, then vary gamma, contrast and brightness, then add noise, each crop on its own.

    Parameters
    ----------
    crops_NCYX : Tensor of shape (N, 1, Y, X)
        Normalised grey values.
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor of shape (N, 1, Y, X)
        Normalised grey values, about as wide as before.
    """
    n, device = len(crops_NCYX), crops_NCYX.device

    def draw(low: float, high: float) -> Tensor:
        return _uniform(n, low, high, generator).to(device)[:, None, None, None]

    crops_NCYX = _blur(crops_NCYX, _uniform(n, 0, config.blur_px, generator).to(device))
    exponent = torch.exp(draw(-config.gamma, config.gamma))
    # The exponent acts on [0, 1]; +-3 standard deviations hold nearly all grey values.
    unit = ((crops_NCYX + 3) / 6).clamp(0, 1)
    crops_NCYX = unit.pow(exponent) * 6 - 3 + (0.5 - 0.5**exponent) * 6
    crops_NCYX = crops_NCYX * torch.exp(draw(-config.contrast, config.contrast))
    crops_NCYX = crops_NCYX + draw(-config.brightness, config.brightness)
    noise = torch.randn(crops_NCYX.shape, generator=generator).to(device)
    return crops_NCYX + noise * draw(0, config.noise)


def _blur(crops_NCYX: Tensor, sigma_N: Tensor) -> Tensor:
    """Blur each crop with its own Gaussian, along one axis and then the other."""
    radius = 4
    distance = torch.arange(-radius, radius + 1, device=sigma_N.device, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (distance / sigma_N.clamp_min(1e-2)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(crops_NCYX.dtype)
    n = len(crops_NCYX)
    x_1NYX = F.pad(crops_NCYX.transpose(0, 1), (radius,) * 4, mode="reflect")
    x_1NYX = F.conv2d(x_1NYX, kernels[:, None, :, None], groups=n)
    return F.conv2d(x_1NYX, kernels[:, None, None, :], groups=n).transpose(0, 1)


def random_crops(
    images_NCYX: Tensor, labels_NCYX: Tensor, crop: int, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw one varied crop from each given section.

    Parameters
    ----------
    images_NCYX : Tensor of float, shape (N, 1, Y, X)
        Normalised sections, on the training device.
    labels_NCYX : Tensor of float, shape (N, 1, Y, X)
        1 = cell interior, 0 = membrane.
    crop : int
        Side of the crops, in pixels.
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        Source of randomness, on the CPU, so that a seed gives the same crops on every device.

    Returns
    -------
    (Tensor, Tensor)
        Crops and their labels, each of shape (N, 1, crop, crop).
    """
    n, _, height, width = images_NCYX.shape
    grid = sampling_grid(n, crop, (height, width), config, generator).to(images_NCYX.device)
    both = torch.cat((images_NCYX, labels_NCYX), dim=1)
    sampled = F.grid_sample(both, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    image, label = sampled[:, :1], (sampled[:, 1:] > 0.5).to(sampled.dtype)
    return vary_intensity(image, config, generator), label
