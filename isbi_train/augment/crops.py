"""Random crops, varied in one resampling on the training device, then in intensity.

Rotation, flip, scale, shift, elastic displacement, folds and seams are composed into one sampling grid, so that pixels
are interpolated once. Labels are resampled with the same grid and re-thresholded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from isbi_train.augment.acquisition_faults import (
    compress,
    draw_canvas,
    draw_knife_marks,
    draw_seams,
    draw_shading,
    draw_streaks,
    grain,
    shot_noise,
)
from isbi_train.augment.looks import bend_greys, sharpen
from isbi_train.augment.section_faults import (
    blur,
    crop_axis,
    defocus,
    draw_defocus,
    draw_dirt,
    draw_folds,
    uniform,
)
from isbi_train.augment.windows import sample_sections
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
    low, high = math.log(config.scale_min), math.log(config.scale_max)
    if config.scale_spread:
        logarithm = (torch.randn(n, generator=generator) * config.scale_spread).clamp(low, high)
    else:
        logarithm = uniform(n, low, high, generator)
    magnification = torch.exp(logarithm)
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
    shapes: Sequence[tuple[int, int]],
    config: AugmentConfig,
    generator: torch.Generator,
    displacements: Sequence[Tensor] = (),
) -> Tensor:
    """Compose shift, rotation, flip, scale, elastic displacement, folds and seams.

    Parameters
    ----------
    n, crop : int
        How many, and the side of the crop in pixels.
    shapes : sequence of (int, int)
        The (Y, X) of each crop's section, or the one of all, in pixels.
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        Source of randomness, on the CPU.
    displacements : sequence of Tensor, each of shape (n, crop, crop, 2)
        Where faults displace tissue, in pixels of the crops.

    Returns
    -------
    Tensor of shape (n, crop, crop, 2)
        Section coordinates (x, y) as `torch.nn.functional.grid_sample` takes them with
        ``align_corners=False``.
    """
    size_N2 = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float32)
    axis = crop_axis(crop)
    offsets = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).expand(n, crop, crop, 2)
    offsets = offsets + elastic_displacement(n, crop, config, generator)
    for displacement_NYX2 in displacements:
        offsets = offsets + displacement_NYX2
    offsets = torch.einsum("nij,nyxj->nyxi", affine_matrices(n, config, generator), offsets)
    shift_N2 = (torch.rand(n, 2, generator=generator) - 0.5) * (size_N2 - crop).clamp_min(0)
    return (offsets + shift_N2[:, None, None]) * 2 / size_N2[:, None, None]


def vary_intensity(
    crops_NCYX: Tensor, config: AugmentConfig, generator: torch.Generator, *, n: int = 0, kept: slice = ALL
) -> Tensor:
    """Blur and sharpen, then vary curve, gamma, contrast, brightness and shading, add noise, compress: each on its own.

    Parameters
    ----------
    crops_NCYX : Tensor of shape (N, C, Y, X)
        Normalised grey values, of a section or of several that lie on each other.
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        Source of randomness, on the CPU.
    n, kept : int and slice
        Where the crops are only the `kept` ones of a larger batch: the length of that batch.

    Returns
    -------
    Tensor of shape (N, C, Y, X)
        Normalised grey values, about as wide as before. Noise differs from section to section.
    """
    n, device = n or len(crops_NCYX), crops_NCYX.device

    def draw(low: float, high: float) -> Tensor:
        return uniform(n, low, high, generator)[kept].to(device)[:, None, None, None]

    crops_NCYX = blur(crops_NCYX, uniform(n, 0, config.blur_px, generator)[kept].to(device))
    crops_NCYX = sharpen(crops_NCYX, config, generator, n=n, kept=kept)
    crops_NCYX = bend_greys(crops_NCYX, config, generator, n=n, kept=kept)
    exponent = torch.exp(draw(-config.gamma, config.gamma))
    # The exponent acts on [0, 1]; +-3 standard deviations hold nearly all grey values.
    unit = ((crops_NCYX + 3) / 6).clamp(0, 1)
    crops_NCYX = unit.pow(exponent) * 6 - 3 + (0.5 - 0.5**exponent) * 6
    crops_NCYX = crops_NCYX * torch.exp(draw(-config.contrast, config.contrast))
    crops_NCYX = crops_NCYX + draw(-config.brightness, config.brightness)
    shading_NYX = draw_shading(n, crops_NCYX.shape[-1], config, generator)
    if shading_NYX is not None:
        crops_NCYX = crops_NCYX + shading_NYX[kept, None].to(device)
    noise = torch.randn((n, *crops_NCYX.shape[1:]), generator=generator)[kept].to(device)
    noise = grain(noise, config, generator, n=n, kept=kept)
    if config.shot:
        noise = shot_noise(noise, crops_NCYX, config.shot)
    crops_NCYX = crops_NCYX + noise * draw(0, config.noise)
    return compress(crops_NCYX, config, generator, n=n, kept=kept)


def random_crops(
    images: Tensor | Sequence[Tensor],
    maps: Tensor | Sequence[Tensor],
    crop: int,
    config: AugmentConfig,
    generator: torch.Generator,
    *,
    kept: slice = ALL,
    counted: bool = False,
) -> tuple[Tensor, Tensor]:
    """Draw one varied crop from each given section.

    Parameters
    ----------
    images : Tensor of float, shape (N, C, Y, X), or sequence of N Tensors of shape (C, Y, X)
        Normalised sections, on the training device; in a sequence each may have a size of its own. Where C is not 1,
        each stands in the middle of its neighbours: tissue is displaced in all of them alike, and dirt, scratches and
        the like are of the one in the middle.
    maps : Tensor of float, shape (N, K, Y, X), or sequence of N Tensors of shape (K, Y, X)
        The first are labels: 1 = cell interior, 0 = membrane. The others, such as weights, may have any values.
    crop : int
        Side of the crops, in pixels.
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        Source of randomness, on the CPU, so that a seed gives the same crops on every device.
    kept : slice
        Compute only these of the N crops; they do not depend on which others are kept.
    counted : bool
        Whether the last map says which pixels count, 1 or 0, and the labels of the others are 0. A pixel of a crop
        counts where more than half of what it is made of does and no canvas is drawn, and has the label of that half.

    Returns
    -------
    (Tensor, Tensor)
        Crops of shape (N, C, crop, crop), and their maps of shape (N, K, crop, crop): labels of 0 and 1, the other
        maps interpolated.
    """
    n, device = len(images), images[0].device
    shapes = [(image.shape[-2], image.shape[-1]) for image in images]
    folds = draw_folds(n, crop, config, generator)
    seams = draw_seams(n, crop, config, generator)
    displacements = [fault.displacement_NYX2 for fault in (folds, seams) if fault]
    grid = sampling_grid(n, crop, shapes, config, generator, displacements)[kept].to(device)
    if isinstance(images, Tensor) and isinstance(maps, Tensor):
        both = torch.cat((images[kept], maps[kept]), dim=1)
        sampled = F.grid_sample(both, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    else:
        sampled = sample_sections(list(zip(images, maps, strict=True))[kept], grid)
    channels = images[0].shape[-3]
    around, others = sampled[:, :channels], sampled[:, channels + 1 :]
    middle = slice(channels // 2, channels // 2 + 1)
    image = around[:, middle]
    half = others[:, -1:] / 2 if counted else 0.5
    label = (sampled[:, channels : channels + 1] > half).to(sampled.dtype)
    for darkening_NYX in (
        folds.darkening_NYX if folds else None,
        draw_dirt(n, crop, config, generator),
    ):
        if darkening_NYX is not None:
            image = image - darkening_NYX[kept, None].to(device)
    for brightness_NYX in (
        seams.brightness_NYX if seams else None,
        draw_knife_marks(n, crop, config, generator),
        draw_streaks(n, crop, config, generator),
    ):
        if brightness_NYX is not None:
            image = image + brightness_NYX[kept, None].to(device)
    blurred = draw_defocus(n, crop, config, generator)
    if blurred is not None:
        share_NYX, sigma_N = blurred
        image = defocus(image, share_NYX[kept], sigma_N[kept], math.ceil(3 * config.defocus_px))
    image = torch.cat((around[:, : middle.start], image, around[:, middle.stop :]), dim=1)
    image = vary_intensity(image, config, generator, n=n, kept=kept)
    counts_NCYX = others[:, -1:] > 0.5 if counted else None
    canvas = draw_canvas(n, crop, config, generator)
    if canvas is not None:
        canvas_NCYX = canvas[0][kept, None].to(device)
        image = torch.where(canvas_NCYX, canvas[1][kept, None, None, None].to(device), image)
        if counts_NCYX is not None:
            counts_NCYX = counts_NCYX & ~canvas_NCYX
    if counts_NCYX is not None:
        others = torch.cat((others[:, :-1], counts_NCYX.to(others.dtype)), dim=1)
    return image, torch.cat((label, others), dim=1)
