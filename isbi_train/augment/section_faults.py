"""What goes wrong with a section on its way to the microscope: folds, dirt and defocus, drawn crop by crop.

Each fault has its own probability in `isbi_train.config.AugmentConfig`, and draws nothing at all where that is zero.
Coordinates are (x, y) in pixels from a crop's centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from isbi_train.config import AugmentConfig

_BLOBS = 3


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw n numbers between two limits."""
    return torch.rand(n, generator=generator) * (high - low) + low


def crop_axis(crop: int) -> Tensor:
    """Return the coordinates of a crop's pixels along one axis, in pixels from its centre."""
    return torch.arange(crop, dtype=torch.float32) - (crop - 1) / 2


def happens(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw which of n crops have a fault: 1 or 0 for each."""
    return (torch.rand(n, generator=generator) < probability).float()


def lines(n: int, crop: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw straight lines through crops: their normals (n, 2) and distances from the centre (n,)."""
    angle = uniform(n, 0, 2 * math.pi, generator)
    normal_N2 = torch.stack((torch.cos(angle), torch.sin(angle)), -1)
    return normal_N2, uniform(n, -0.4, 0.4, generator) * crop


def distances(normal_N2: Tensor, offset_N: Tensor, crop: int) -> Tensor:
    """Return each pixel's signed distance from its crop's line, of shape (N, Y, X)."""
    axis = crop_axis(crop)
    x_distance_NX, y_distance_NY = normal_N2[:, :1] * axis, normal_N2[:, 1:] * axis
    return x_distance_NX[:, None, :] + y_distance_NY[:, :, None] - offset_N[:, None, None]


@dataclass(frozen=True, slots=True)
class Folds:
    """Folds of a batch of crops.

    Attributes
    ----------
    displacement_NYX2 : Tensor of shape (N, Y, X, 2)
        Where each pixel's tissue comes from, relative to an unfolded section, in pixels.
    darkening_NYX : Tensor of shape (N, Y, X)
        To be subtracted from the grey values, in standard deviations of the section.
    """

    displacement_NYX2: Tensor
    darkening_NYX: Tensor


def draw_folds(n: int, crop: int, config: AugmentConfig, generator: torch.Generator) -> Folds | None:
    """Draw folds: a smooth dark band, across which the tissue is displaced by what the band hides.

    Parameters
    ----------
    n, crop : int
        How many, and the side of the crop in pixels.
    config : AugmentConfig
        Gives ``fold_probability``, ``fold_width_px``, ``fold_shift_px`` and ``fold_darkness``.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Folds or None
        None where there are none.
    """
    if config.fold_probability == 0:
        return None
    happens_N = happens(n, config.fold_probability, generator)
    normal_N2, offset_N = lines(n, crop, generator)
    width = uniform(n, 0.3, 1.0, generator) * config.fold_width_px
    hidden = uniform(n, 0, config.fold_shift_px, generator) * happens_N
    darkness = uniform(n, 0.2, 1.0, generator) * config.fold_darkness * happens_N
    if not happens_N.any():
        return None
    across_NYX = distances(normal_N2, offset_N, crop) / width[:, None, None]
    step_NYX = torch.tanh(across_NYX) * hidden[:, None, None] / 2
    return Folds(
        displacement_NYX2=step_NYX[..., None] * normal_N2[:, None, None],
        darkening_NYX=torch.exp(-0.5 * across_NYX**2) * darkness[:, None, None],
    )


def draw_dirt(n: int, crop: int, config: AugmentConfig, generator: torch.Generator) -> Tensor | None:
    """Draw dirt: up to three dark blobs with soft rims a crop.

    Parameters
    ----------
    n, crop : int
        How many crops, and their side in pixels.
    config : AugmentConfig
        Gives ``dirt_probability``, ``dirt_radius_px`` and ``dirt_darkness``.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor of shape (N, Y, X), or None
        To be subtracted from the grey values, in standard deviations of the section; None where there is
        none.
    """
    if config.dirt_probability == 0:
        return None
    happens_N = happens(n, config.dirt_probability, generator)
    count = torch.randint(1, _BLOBS + 1, (n,), generator=generator)
    place_NB2 = uniform(n * _BLOBS * 2, -0.5, 0.5, generator).reshape(n, _BLOBS, 2) * crop
    radius_NB = uniform(n * _BLOBS, 0.2, 1.0, generator).reshape(n, _BLOBS) * config.dirt_radius_px
    darkness_NB = uniform(n * _BLOBS, 0.3, 1.0, generator).reshape(n, _BLOBS) * config.dirt_darkness
    if not happens_N.any():
        return None
    axis = crop_axis(crop)
    darkening_NYX = torch.zeros(n, crop, crop)
    for blob in range(_BLOBS):
        x, y = place_NB2[:, blob].unbind(1)
        radius, darkness = radius_NB[:, blob], darkness_NB[:, blob] * happens_N * (blob < count)
        squared_NYX = (axis[None, None, :] - x[:, None, None]) ** 2 + (
            axis[None, :, None] - y[:, None, None]
        ) ** 2
        # Flat within, and at half its depth on the radius.
        profile_NYX = torch.exp(-math.log(2) * (squared_NYX / radius[:, None, None] ** 2) ** 2)
        darkening_NYX = torch.maximum(darkening_NYX, profile_NYX * darkness[:, None, None])
    return darkening_NYX


def draw_defocus(
    n: int, crop: int, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """Draw defocus: one side of a line is blurred, with a smooth passage.

    Parameters
    ----------
    n, crop : int
        How many crops, and their side in pixels.
    config : AugmentConfig
        Gives ``defocus_probability`` and ``defocus_px``.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    (Tensor of shape (N, Y, X), Tensor of shape (N,)), or None
        The share of the blurred image in the result (0..1), and the standard deviation of the blur in pixels; None
        where there is none.
    """
    if config.defocus_probability == 0:
        return None
    happens_N = happens(n, config.defocus_probability, generator)
    normal_N2, offset_N = lines(n, crop, generator)
    sigma_N = uniform(n, 0.5, 1.0, generator) * config.defocus_px
    if not happens_N.any():
        return None
    distance_NYX = distances(normal_N2, offset_N, crop)
    return torch.sigmoid(distance_NYX / (0.05 * crop)) * happens_N[:, None, None], sigma_N


def blur(crops_NCYX: Tensor, sigma_N: Tensor, radius: int = 4) -> Tensor:
    """Blur each crop with a Gaussian of its own, along one axis and then the other.

    Parameters
    ----------
    crops_NCYX : Tensor of shape (N, 1, Y, X)
        Larger than `radius` on each side.
    sigma_N : Tensor of shape (N,)
        Standard deviations, in pixels.
    radius : int
        Where the Gaussian is cut off, in pixels.

    Returns
    -------
    Tensor of shape (N, 1, Y, X)
    """
    distance = torch.arange(-radius, radius + 1, device=sigma_N.device, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (distance / sigma_N.clamp_min(1e-2)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(crops_NCYX.dtype)
    n = len(crops_NCYX)
    x_1NYX = F.pad(crops_NCYX.transpose(0, 1), (radius,) * 4, mode="reflect")
    x_1NYX = F.conv2d(x_1NYX, kernels[:, None, :, None], groups=n)
    return F.conv2d(x_1NYX, kernels[:, None, None, :], groups=n).transpose(0, 1)


def defocus(crops_NCYX: Tensor, share_NYX: Tensor, sigma_N: Tensor, radius: int) -> Tensor:
    """Blur a part of crops; those that are in focus are not computed.

    Parameters
    ----------
    crops_NCYX : Tensor of shape (N, 1, Y, X)
        Grey values.
    share_NYX : Tensor of shape (N, Y, X)
        Of the blurred image in the result, 0..1; on the CPU.
    sigma_N : Tensor of shape (N,)
        Standard deviations of the blur, in pixels; on the CPU.
    radius : int
        Where its Gaussian is cut off, in pixels; less where crops are smaller.

    Returns
    -------
    Tensor of shape (N, 1, Y, X)
    """
    chosen = share_NYX.amax((1, 2)).nonzero()[:, 0]
    if len(chosen) == 0:
        return crops_NCYX
    sigma_N = sigma_N[chosen]
    radius = min(radius, crops_NCYX.shape[-1] - 1)
    device = crops_NCYX.device
    share_NCYX, sigma_N, chosen = (part.to(device) for part in (share_NYX[chosen, None], sigma_N, chosen))
    sharp_NCYX = crops_NCYX[chosen]
    blurred_NCYX = blur(sharp_NCYX, sigma_N, radius)
    return crops_NCYX.index_copy(0, chosen, torch.lerp(sharp_NCYX, blurred_NCYX, share_NCYX))
