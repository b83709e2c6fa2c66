"""The loss: weighted binary cross-entropy against targets that need not be 0 and 1.

A target mixes three things: the label, the label moved towards 1/2 beside borders, and teachers' probabilities. With
label y, smoothing s and soft share a, it is ``(1 - a) ((1 - s) y + s / 2) + a q``, which is linear in y. So what a
crop needs beside its label are three smooth maps (`MAPS`), and the label itself is re-thresholded after resampling.
Where not every pixel counts, one more map says which do.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from isbi_train.config import TrainConfig

MAPS = ("label", "gain", "offset", "border weight")  # target = gain * label + offset


def has_counted(maps_NKYX: Tensor) -> bool:
    """Return whether the last map says which pixels count (1) and which are left out (0)."""
    return maps_NKYX.shape[1] in (2, len(MAPS) + 1)


def with_maps(maps_KYX: Tensor, count: int) -> Tensor:
    """Bring the maps of a section of labels alone to as many as those of other sections, without another meaning.

    Parameters
    ----------
    maps_KYX : Tensor of shape (K, Y, X)
        `MAPS`, or the labels alone, and then which pixels count.
    count : int
        How many maps there shall be, K or 3 more.

    Returns
    -------
    Tensor of shape (count, Y, X)
    """
    if len(maps_KYX) == count:
        return maps_KYX
    gain_1YX = torch.ones_like(maps_KYX[:1])
    nothing_1YX = torch.zeros_like(gain_1YX)
    return torch.cat((maps_KYX[:1], gain_1YX, nothing_1YX, nothing_1YX, maps_KYX[1:]))


def is_plain(config: TrainConfig) -> bool:
    """Return whether the targets are the labels, all of one weight, where there are no teachers."""
    return config.border_weight == 0 and config.label_smoothing == 0


def border_distances(cell_YX: npt.NDArray[np.bool_], reach_px: int) -> npt.NDArray[np.float32]:
    """Measure how far each pixel is from the two nearest cells.

    Parameters
    ----------
    cell_YX : ndarray of bool, shape (Y, X)
        True = cell interior; a cell is a 4-connected component.
    reach_px : int
        Look no further along either axis.

    Returns
    -------
    ndarray of float32, shape (2, Y, X)
        Distances in pixels, the smaller one first; infinite where there are not so many cells within reach.
    """
    cells_YX, count = ndimage.label(cell_YX)
    nearest_2YX = np.full((2, *cell_YX.shape), np.inf, np.float32)
    for cell, box in zip(range(1, count + 1), ndimage.find_objects(cells_YX), strict=True):
        near = tuple(slice(max(0, side.start - reach_px), side.stop + reach_px) for side in box)
        distance_YX = ndimage.distance_transform_edt(cells_YX[near] != cell).astype(np.float32)
        first_YX, second_YX = nearest_2YX[0][near], nearest_2YX[1][near]
        np.minimum(second_YX, np.maximum(first_YX, distance_YX), out=second_YX)
        np.minimum(first_YX, distance_YX, out=first_YX)
    return nearest_2YX


def border_weights(cell_YX: npt.NDArray[np.bool_], w0: float, sigma_px: float) -> npt.NDArray[np.float32]:
    """Weigh membranes between near cells: w0 exp(-(d1 + d2)^2 / (2 sigma^2)).

    Ronneberger et al. 2015, MICCAI, equation 2, without its class weights. As there, only membrane pixels are weighed.

    Parameters
    ----------
    cell_YX : ndarray of bool, shape (Y, X)
        True = cell interior.
    w0, sigma_px : float
        Height and, in pixels, reach.

    Returns
    -------
    ndarray of float32, shape (Y, X)
    """
    if w0 == 0:
        return np.zeros(cell_YX.shape, np.float32)
    d1_YX, d2_YX = border_distances(cell_YX, ceil(6 * sigma_px))  # exp(-18) is nothing
    weight_YX = w0 * np.exp(-((d1_YX + d2_YX) ** 2) / (2 * sigma_px**2))
    return np.where(cell_YX, 0, weight_YX).astype(np.float32)


def smoothing(
    cell_YX: npt.NDArray[np.bool_],
    strength: float,
    sigma_px: float,
    unknown_YX: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float32]:
    """Return how far each pixel's target moves towards 1/2: strength exp(-d^2 / (2 sigma^2)).

    Parameters
    ----------
    cell_YX : ndarray of bool, shape (Y, X)
        True = cell interior.
    strength, sigma_px : float
        Beside a border (0..1), and the standard deviation of the fading, in pixels.
    unknown_YX : ndarray of bool, shape (Y, X), optional
        Pixels of which nobody knows what they are: no border runs along them.

    Returns
    -------
    ndarray of float32, shape (Y, X)
        With d the distance to the border, half a pixel for the pixels beside it.
    """
    membrane_YX = ~cell_YX
    if unknown_YX is not None:
        cell_YX, membrane_YX = cell_YX & ~unknown_YX, membrane_YX & ~unknown_YX
    if not cell_YX.any() or not membrane_YX.any():
        return np.zeros(cell_YX.shape, np.float32)
    edt = ndimage.distance_transform_edt
    distance_YX = (
        np.maximum(edt(~membrane_YX), edt(~cell_YX)) - 0.5
    )  # one of them is 0 where a pixel is known
    moved_YX: npt.NDArray[np.float32] = strength * np.exp(-(distance_YX**2) / (2 * sigma_px**2))
    return moved_YX.astype(np.float32)


def target_maps(
    cell_ZYX: npt.NDArray[np.bool_],
    config: TrainConfig,
    soft_ZYX: npt.NDArray[np.float32] | None = None,
    *,
    labelled: bool = True,
    unknown_ZYX: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float32]:
    """Make of each section's label what training resamples with it.

    Parameters
    ----------
    cell_ZYX : ndarray of bool, shape (Z, Y, X)
        True = cell interior.
    config : TrainConfig
        Gives weights, smoothing and ``soft_weight``.
    soft_ZYX : ndarray of float32, shape (Z, Y, X), optional
        The teachers' probabilities.
    labelled : bool
        False where the labels are only the teachers' opinion: then the targets are soft alone.
    unknown_ZYX : ndarray of bool, shape (Z, Y, X), optional
        Pixels of which nobody knows what they are.

    Returns
    -------
    ndarray of float32, shape (Z, 4, Y, X)
        See `MAPS`.
    """
    share = 0.0 if soft_ZYX is None else config.soft_weight if labelled else 1.0
    maps_ZKYX = np.empty((len(cell_ZYX), len(MAPS), *cell_ZYX.shape[1:]), np.float32)
    for z, (cell_YX, maps_KYX) in enumerate(zip(cell_ZYX, maps_ZKYX, strict=True)):
        unknown_YX = None if unknown_ZYX is None else unknown_ZYX[z]
        moved_YX = smoothing(cell_YX, config.label_smoothing, config.label_smoothing_px, unknown_YX)
        maps_KYX[0] = cell_YX
        maps_KYX[1] = (1 - share) * (1 - moved_YX)
        maps_KYX[2] = (1 - share) * moved_YX / 2
        if soft_ZYX is not None:
            maps_KYX[2] += share * soft_ZYX[z]
        maps_KYX[3] = border_weights(cell_YX, config.border_weight, config.border_sigma_px)
    return maps_ZKYX


def targets_and_weights(maps_NKYX: Tensor, membrane_weight: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return each pixel's target probability of cell and its weight, both of shape (N, 1, Y, X)."""
    target_N1YX = maps_NKYX[:, :1]
    added_N1YX = torch.zeros_like(target_N1YX)
    if maps_NKYX.shape[1] >= len(MAPS):
        target_N1YX = maps_NKYX[:, 1:2] * target_N1YX + maps_NKYX[:, 2:3]
        added_N1YX = maps_NKYX[:, 3:4]
    weight_N1YX = membrane_weight + (1 - membrane_weight) * target_N1YX + added_N1YX
    if has_counted(maps_NKYX):
        weight_N1YX = weight_N1YX * maps_NKYX[:, -1:]
    return target_N1YX, weight_N1YX


def mean_weight(maps_ZKYX: Tensor, membrane_weight: float) -> float:
    """Average the weights of all sections' pixels; divided by it, they leave the loss on one scale."""
    total = sum(
        targets_and_weights(section.float(), membrane_weight)[1].mean().item()
        for section in maps_ZKYX.split(1)
    )
    return total / len(maps_ZKYX)


def loss(
    logits_N1YX: Tensor, maps_NKYX: Tensor, membrane_weight: float | Tensor, weight_scale: float
) -> Tensor:
    """Average the weighted binary cross-entropy over a batch.

    Parameters
    ----------
    logits_N1YX : Tensor of shape (N, 1, Y, X)
        Of cell interior.
    maps_NKYX : Tensor of shape (N, K, Y, X)
        `MAPS`, or the labels alone, and then which pixels count, where not all do.
    membrane_weight : float or Tensor of shape (N, 1, 1, 1)
        Weight of a pixel whose target is 0, of all crops or of each; that of 1 is 1.
    weight_scale : float
        What weights are divided by, see `mean_weight`.

    Returns
    -------
    Tensor
        A scalar, float32.
    """
    target_N1YX, weight_N1YX = targets_and_weights(maps_NKYX, membrane_weight)
    return F.binary_cross_entropy_with_logits(
        logits_N1YX.float(), target_N1YX, weight=weight_N1YX / weight_scale
    )
