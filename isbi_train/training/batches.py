"""What each step trains on: the sections on the device, and the batch that a step draws from them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isbi_infer.pixels.mending import normalising_section
from isbi_infer.pixels.normalise import normalise
from isbi_train.augment.crops import ALL, random_crops
from isbi_train.config import AugmentConfig, TrainConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.training.distil import SoftLabels
from isbi_train.training.losses import is_plain, mean_weight, target_maps


@dataclass(frozen=True, slots=True)
class Sections:
    """Training sections on the device.

    Attributes
    ----------
    images_ZCYX : Tensor of float32, shape (Z, 1, Y, X)
        Each section normalised with its own statistics.
    maps_ZKYX : Tensor of float32, shape (Z, K, Y, X)
        `isbi_train.training.losses.MAPS`, or the labels alone where nothing else is needed.
    weight_scale : float
        See `isbi_train.training.losses.mean_weight`.
    """

    images_ZCYX: Tensor
    maps_ZKYX: Tensor
    weight_scale: float

    def __len__(self) -> int:
        return len(self.images_ZCYX)


def normalised(image_ZYX: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Normalise each section with the statistics of its own tissue, as inference does."""
    return np.stack([normalise(section_YX, normalising_section(section_YX)) for section_YX in image_ZYX])


def bring_sections(
    training: LabelledStack, train: TrainConfig, soft: SoftLabels | None, device: torch.device
) -> Sections:
    """Prepare all that training draws from, and bring it to the device.

    Parameters
    ----------
    training : LabelledStack
        The sections that are trained on.
    train : TrainConfig
        Gives weights, smoothing and the share of soft labels.
    soft : SoftLabels or None
        Of these sections, and of unlabelled ones.
    device : torch.device
        Where to.

    Returns
    -------
    Sections
        Unlabelled sections come last.
    """
    images_ZYX = normalised(training.image_ZYX)
    if soft is None and is_plain(train):
        maps_ZKYX = training.cell_ZYX[:, None].astype(np.float32)
    elif soft is None:
        maps_ZKYX = target_maps(training.cell_ZYX, train)
    else:
        maps_ZKYX = target_maps(training.cell_ZYX, train, soft.labelled_ZYX)
        if len(soft.unlabelled_ZYX):
            opinion_ZYX = soft.unlabelled_ZYX
            others_ZKYX = target_maps(opinion_ZYX > 0.5, train, opinion_ZYX, labelled=False)
            images_ZYX = np.concatenate((images_ZYX, normalised(soft.unlabelled_image_ZYX)))
            maps_ZKYX = np.concatenate((maps_ZKYX, others_ZKYX))
    maps = torch.from_numpy(maps_ZKYX)
    weight_scale = mean_weight(maps, train.membrane_weight)
    return Sections(torch.from_numpy(images_ZYX)[:, None].to(device), maps.to(device), weight_scale)


def draw_batch(
    sections: Sections, augment: AugmentConfig, train: TrainConfig, step: int, kept: slice = ALL
) -> tuple[Tensor, Tensor]:
    """Draw the crops of one step: a function of the seed and the step alone.

    Parameters
    ----------
    sections : Sections
        To draw from.
    augment, train : AugmentConfig, TrainConfig
        The settings.
    step : int
        Counted from 0.
    kept : slice
        Compute only these crops of the batch.

    Returns
    -------
    (Tensor, Tensor)
        Images and maps, each of shape (N, 1 or K, crop, crop).
    """
    generator = torch.Generator().manual_seed(step_seed(train, step))
    chosen = torch.randint(len(sections), (train.batch,), generator=generator).to(sections.images_ZCYX.device)
    return random_crops(
        sections.images_ZCYX[chosen], sections.maps_ZKYX[chosen], train.crop, augment, generator, kept=kept
    )


def steps_per_epoch(pixels: int, train: TrainConfig) -> int:
    """Count the steps that draw as many pixels as the training sections have; at least one."""
    return max(1, round(pixels / (train.batch * train.crop**2)))


def step_seed(train: TrainConfig, step: int) -> int:
    """Return the seed of one step's randomness."""
    return train.seed * 2**32 + step


def batches(
    sections: Sections, augment: AugmentConfig, train: TrainConfig, steps: range, kept: slice = ALL
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Draw the batches of many steps; on CUDA each one while the step before it is computed.

    On the CPU that would gain nothing, for drawing and computing would share its cores.

    Yields
    ------
    (int, Tensor, Tensor)
        A step, and what `draw_batch` gives for it.
    """
    if sections.images_ZCYX.device.type == "cpu":
        for step in steps:
            yield step, *draw_batch(sections, augment, train, step, kept)
        return
    with ThreadPoolExecutor(1, "draw") as thread:
        ahead = thread.submit(draw_batch, sections, augment, train, steps.start, kept) if steps else None
        for step in steps:
            assert ahead is not None
            image_NCYX, maps_NKYX = ahead.result()
            if step + 1 < steps.stop:
                ahead = thread.submit(draw_batch, sections, augment, train, step + 1, kept)
            yield step, image_NCYX, maps_NKYX
