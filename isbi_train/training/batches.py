"""What each step trains on: the sections on the device, and the batch that a step draws from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isbi_infer.pixels.mending import normalising_section
from isbi_infer.pixels.normalise import normalise
from isbi_infer.plan.neighbours import mirrored
from isbi_train.augment.crops import ALL, random_crops
from isbi_train.config import AugmentConfig, TrainConfig
from isbi_train.data.borders import learnt_labels
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.stacks import TrainingStack
from isbi_train.training.distil import SoftLabels
from isbi_train.training.losses import MAPS, has_counted, is_plain, mean_weight, target_maps, with_maps

_HALF = 0.5  # of the crops show their neighbours in the other order


@dataclass(frozen=True, slots=True)
class Sections:
    """Training sections on the device.

    Attributes
    ----------
    images_ZCYX : Tensor of float32, shape (Z, 1, Y, X)
        Each section normalised with its own statistics.
    maps_ZKYX : Tensor of float32, shape (Z, K, Y, X)
        `isbi_train.training.losses.MAPS`, or the labels alone where nothing else is needed; then which pixels count,
        where not all do.
    membrane_weight : float
        Weight of a membrane pixel in the loss.
    weight_scale : float
        See `isbi_train.training.losses.mean_weight`.
    apart : int
        How many sections apart those may be drawn that a network sees together.
    runs : tuple of slice
        Sections that follow each other in the stack that they are of; a network sees no others together.
    """

    images_ZCYX: Tensor
    maps_ZKYX: Tensor
    membrane_weight: float
    weight_scale: float
    apart: int = 1
    runs: tuple[slice, ...] = ()

    def __len__(self) -> int:
        return len(self.images_ZCYX)

    def run_of(self, z: int) -> slice:
        """Return the run that a section is of; all sections where none are named."""
        return next((run for run in self.runs if run.start <= z < run.stop), slice(0, len(self)))

    @property
    def pixels(self) -> int:
        """How many pixels there are to train on."""
        return self.images_ZCYX.numel()

    @property
    def device(self) -> torch.device:
        """Where the sections lie."""
        return self.images_ZCYX.device


@dataclass(frozen=True, slots=True)
class Pool:
    """Sections of several sizes on the device.

    Attributes
    ----------
    parts : tuple of Sections
        Each of one size. Their maps are bytes where these are 0 and 1 only; some may have labels alone where others
        have all maps.
    share_P : Tensor of float64, shape (parts,)
        How often crops are drawn of each; the sum is 1.
    weight_scale : float
        See `isbi_train.training.losses.mean_weight`.
    """

    parts: tuple[Sections, ...]
    share_P: Tensor
    weight_scale: float

    @property
    def pixels(self) -> int:
        """How many pixels there are to train on."""
        return sum(part.pixels for part in self.parts)

    @property
    def device(self) -> torch.device:
        """Where the sections lie."""
        return self.parts[0].device


class Batch(NamedTuple):
    """The crops of one step.

    Attributes
    ----------
    images_NCYX : Tensor of shape (N, 1 + 2 neighbours, crop, crop)
        Normalised grey values.
    maps_NKYX : Tensor of shape (N, K, crop, crop)
        See `Sections`.
    membrane_weight_N111 : Tensor of shape (N, 1, 1, 1)
        Weight of a membrane pixel of each crop in the loss; that of a cell pixel is 1.
    """

    images_NCYX: Tensor
    maps_NKYX: Tensor
    membrane_weight_N111: Tensor


def normalised(image_ZYX: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Normalise each section with the statistics of its own tissue, as inference does."""
    return np.stack([normalise(section_YX, normalising_section(section_YX)) for section_YX in image_ZYX])


def bring_sections(
    training: LabelledStack,
    train: TrainConfig,
    soft: SoftLabels | None,
    device: torch.device,
    augment: AugmentConfig | None = None,
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
    augment : AugmentConfig, optional
        Says whether crops will show canvas, which is left out of the loss.

    Returns
    -------
    Sections
        Unlabelled sections come last.
    """
    unknown_ZYX = None
    if train.label_smoothing:  # the band beside membranes does not count, but is known
        unknown_ZYX = learnt_labels(training, replace(train, ignore_band_nm=0.0)).ignored_ZYX
    training = learnt_labels(training, train)
    images_ZYX = normalised(training.image_ZYX)
    if soft is None and is_plain(train):
        maps_ZKYX = training.cell_ZYX[:, None].astype(np.float32)
    elif soft is None:
        maps_ZKYX = target_maps(training.cell_ZYX, train, unknown_ZYX=unknown_ZYX)
    else:
        maps_ZKYX = target_maps(training.cell_ZYX, train, soft.labelled_ZYX, unknown_ZYX=unknown_ZYX)
        if len(soft.unlabelled_ZYX):
            opinion_ZYX = soft.unlabelled_ZYX
            others_ZKYX = target_maps(opinion_ZYX > 0.5, train, opinion_ZYX, labelled=False)
            images_ZYX = np.concatenate((images_ZYX, normalised(soft.unlabelled_image_ZYX)))
            maps_ZKYX = np.concatenate((maps_ZKYX, others_ZKYX))
    canvas = augment is not None and augment.canvas_probability > 0
    if canvas or training.ignored_ZYX is not None:
        counted_Z1YX = np.ones_like(maps_ZKYX[:, :1])
        if training.ignored_ZYX is not None:
            counted_Z1YX[: len(training), 0] = ~training.ignored_ZYX
        maps_ZKYX[:, :1] *= counted_Z1YX  # that no label is interpolated from what does not count
        maps_ZKYX = np.concatenate((maps_ZKYX, counted_Z1YX), axis=1)
    maps = torch.from_numpy(maps_ZKYX)
    weight_scale = mean_weight(maps, train.membrane_weight)
    runs = training.runs
    if len(images_ZYX) > len(training):
        runs.append(slice(len(training), len(images_ZYX)))
    images = torch.from_numpy(images_ZYX)[:, None].to(device)
    return Sections(images, maps.to(device), train.membrane_weight, weight_scale, runs=tuple(runs))


def bring_stacks(
    stacks: Sequence[TrainingStack],
    train: TrainConfig,
    soft: Mapping[str, Sequence[SoftLabels]],
    device: torch.device,
    augment: AugmentConfig,
) -> Sections | Pool:
    """Prepare all that training draws from, of one stack or of several.

    Parameters
    ----------
    stacks : sequence of TrainingStack
        At least one.
    train, augment : TrainConfig, AugmentConfig
        The settings.
    soft : mapping of str to sequence of SoftLabels
        By the name of the stack, of each of its parts; stacks that have no teachers are not in it.
    device : torch.device
        Where to.

    Returns
    -------
    Sections or Pool
        A pool of several parts draws each stack by its weight, and each of its sections equally often.
    """
    parts, shares = [], []
    for stack in stacks:
        apart = stack.stored.entry.apart if stack.stored else 1
        own = stack.stored.entry.membrane_weight if stack.stored else None
        weighted = train if own is None else replace(train, membrane_weight=own)
        taught: Sequence[SoftLabels | None] = soft.get(stack.name) or [None] * len(stack.parts)
        brought = [
            replace(bring_sections(labelled, weighted, opinion, device, augment), apart=apart)
            for labelled, opinion in zip(stack.parts, taught, strict=True)
        ]
        parts += brought
        shares += [stack.weight * len(part) / sum(map(len, brought)) for part in brought]
    if len(parts) == 1:
        return parts[0]
    if any(has_counted(part.maps_ZKYX) for part in parts):
        parts = [_with_counted(part) for part in parts]
    parts = [_as_bytes(part) for part in parts]
    share_P = torch.tensor(shares, dtype=torch.float64) / sum(shares)
    scale = sum(share * part.weight_scale for share, part in zip(share_P.tolist(), parts, strict=True))
    return Pool(tuple(parts), share_P, scale)


def _as_bytes(part: Sections) -> Sections:
    """Store the maps of a part as bytes where they are labels and what counts alone."""
    if part.maps_ZKYX.shape[1] >= len(MAPS):
        return part
    return replace(part, maps_ZKYX=part.maps_ZKYX.to(torch.uint8))


def _with_counted(part: Sections) -> Sections:
    """Add the map of what counts to those of a part that has none."""
    if has_counted(part.maps_ZKYX):
        return part
    every_Z1YX = torch.ones_like(part.maps_ZKYX[:, :1])
    return replace(part, maps_ZKYX=torch.cat((part.maps_ZKYX, every_Z1YX), dim=1))


def draw_batch(
    sections: Sections | Pool,
    augment: AugmentConfig,
    train: TrainConfig,
    step: int,
    kept: slice = ALL,
    neighbours: int = 0,
) -> Batch:
    """Draw the crops of one step: a function of the seed and the step alone.

    Parameters
    ----------
    sections : Sections or Pool
        To draw from. Of a pool first its part is drawn for each crop, then a section of it.
    augment, train : AugmentConfig, TrainConfig
        The settings.
    step : int
        Counted from 0.
    kept : slice
        Compute only these crops of the batch.
    neighbours : int
        Sections on either side of one that the network sees, too.

    Returns
    -------
    Batch
    """
    generator = torch.Generator().manual_seed(step_seed(train, step))
    images: Tensor | list[Tensor]
    maps: Tensor | list[Tensor]
    if isinstance(sections, Sections):
        chosen = torch.randint(len(sections), (train.batch,), generator=generator).to(sections.device)
        maps = sections.maps_ZKYX[chosen]
        if neighbours:
            images = torch.stack(
                [_surrounded(sections, z, neighbours, augment, generator) for z in chosen.tolist()]
            )
        else:
            images = sections.images_ZCYX[chosen]
        counted = has_counted(sections.maps_ZKYX)
        weights = [sections.membrane_weight] * train.batch
    else:
        part_N = torch.multinomial(sections.share_P, train.batch, replacement=True, generator=generator)
        place_N = torch.rand(train.batch, generator=generator)
        parts = [sections.parts[part] for part in part_N.tolist()]
        chosen_N = [int(place * len(part)) for place, part in zip(place_N.tolist(), parts, strict=True)]
        images = [
            _surrounded(part, z, neighbours, augment, generator) if neighbours else part.images_ZCYX[z]
            for part, z in zip(parts, chosen_N, strict=True)
        ]
        most = max(part.maps_ZKYX.shape[1] for part in sections.parts)
        maps = [with_maps(part.maps_ZKYX[z], most) for part, z in zip(parts, chosen_N, strict=True)]
        counted = has_counted(sections.parts[0].maps_ZKYX)
        weights = [part.membrane_weight for part in parts]
    cropped = random_crops(images, maps, train.crop, augment, generator, kept=kept, counted=counted)
    weight_N111 = torch.tensor(weights)[kept, None, None, None].to(sections.device)
    return Batch(*cropped, weight_N111)


def _surrounded(
    part: Sections, z: int, neighbours: int, augment: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """Return a section in the middle of its neighbours, of shape (1 + 2 neighbours, Y, X), in either order."""
    reversed_, gap, which = torch.rand(3, generator=generator).tolist()
    apart = int(torch.randint(1, part.apart + 1, (1,), generator=generator))
    run = part.run_of(z)
    seen = [
        run.start + mirrored(z - run.start + apart * step, run.stop - run.start)
        for step in range(-neighbours, neighbours + 1)
    ]
    if gap < augment.gap_probability / 2:
        seen = [z] * len(seen)
    elif gap < augment.gap_probability:
        lacking = int(which * 2 * neighbours)
        lacking += lacking >= neighbours  # never the section itself
        seen[lacking] = seen[lacking + (1 if lacking < neighbours else -1)]
    if reversed_ < _HALF:
        seen.reverse()
    return _slipped(part.images_ZCYX[seen, 0], seen, augment, generator)


def _slipped(
    seen_CYX: Tensor, seen: Sequence[int], augment: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """Displace what lies beyond a place between two of the sections, as where a stack is not aligned there.

    It is decided by the sections' numbers, so that what stands in for a neighbour moves as the section that it is.
    """
    if not augment.slip_probability:
        return seen_CYX
    slips, where, *way = torch.rand(4, generator=generator).tolist()
    z = seen[len(seen) // 2]
    others = sorted(set(seen) - {z})
    if slips >= augment.slip_probability or not others:
        return seen_CYX
    nearest = others[int(where * len(others))]  # of those that move
    moved = [at for at, other in enumerate(seen) if (other >= nearest if nearest > z else other <= nearest)]
    places = []
    for size, part in zip(seen_CYX.shape[1:], way, strict=True):
        pixels = round((2 * part - 1) * augment.slip_px)
        places.append((torch.arange(size) - pixels).clamp(0, size - 1).to(seen_CYX.device))
    seen_CYX[moved] = seen_CYX[moved][:, places[0]][:, :, places[1]]
    return seen_CYX


def steps_per_epoch(pixels: int, train: TrainConfig) -> int:
    """Count the steps of an epoch: those that draw as many pixels as there are, or its share of ``train.steps``."""
    if train.steps:
        return ceil(train.steps / train.epochs)
    return max(1, round(pixels / (train.batch * train.crop**2)))


def steps_in_all(pixels: int, train: TrainConfig) -> int:
    """Count the steps of a run: as many as asked for, or those of its epochs."""
    return train.steps or train.epochs * steps_per_epoch(pixels, train)


def epochs_in_all(train: TrainConfig) -> int:
    """Count the epochs of a run: as many as asked for, or fewer where ``train.steps`` do not fill them."""
    return ceil(train.steps / ceil(train.steps / train.epochs)) if train.steps else train.epochs


def step_seed(train: TrainConfig, step: int) -> int:
    """Return the seed of one step's randomness.

    It has 32 bits, for torch's generator on the CPU looks at no more; the run's seed and the step are mixed into all.
    """
    return int(np.random.SeedSequence((train.seed, step)).generate_state(1)[0])


def batches(
    sections: Sections | Pool,
    augment: AugmentConfig,
    train: TrainConfig,
    steps: range,
    kept: slice = ALL,
    neighbours: int = 0,
) -> Iterator[tuple[int, Batch]]:
    """Draw the batches of many steps; on CUDA each one while the step before it is computed.

    On the CPU that would gain nothing, for drawing and computing would share its cores.

    Yields
    ------
    (int, Batch)
        A step, and what `draw_batch` gives for it.
    """
    if sections.device.type == "cpu":
        for step in steps:
            yield step, draw_batch(sections, augment, train, step, kept, neighbours)
        return
    with ThreadPoolExecutor(1, "draw") as thread:

        def drawn(step: int) -> Future[Batch]:
            return thread.submit(draw_batch, sections, augment, train, step, kept, neighbours)

        ahead = drawn(steps.start) if steps else None
        for step in steps:
            assert ahead is not None
            batch = ahead.result()
            if step + 1 < steps.stop:
                ahead = drawn(step + 1)
            yield step, batch
