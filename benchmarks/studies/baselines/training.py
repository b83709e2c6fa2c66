"""Training a network on one block's neighbours: our data path, loss, schedule and averaging, step by step."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isbi_infer.errors import ModelError
from isbi_train.config import AugmentConfig, TrainConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.sections import hold_out
from isbi_train.networks.whole import predict_whole
from isbi_train.training.batches import Sections, bring_sections, draw_batch, step_seed, steps_in_all
from isbi_train.training.calibrate import fit_calibration
from isbi_train.training.device import Device, choose_device
from isbi_train.training.folds import fold_config
from isbi_train.training.state import TrainingState
from isbi_train.training.train import learning_rate, take_step
from isbi_train.training.validate import scores_of

log = logging.getLogger(__name__)
Build = Callable[[], nn.Module]
Progress = Callable[[int, int, float], None]

ROUNDS, WARM_UP = 8, 2
_SAY_STEPS = 50


class _Planar(nn.Module):
    """A network run on images laid out plane by plane, which training otherwise lays out channels last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_NCYX: Tensor) -> Tensor:
        return self.network(image_NCYX.clone(memory_format=torch.contiguous_format))


@dataclass(frozen=True, slots=True)
class Split:
    """What all networks get for one held-out block.

    Attributes
    ----------
    sections : Sections
        Trained on.
    held_out : LabelledStack
        Scored on.
    augment, train : AugmentConfig, TrainConfig
        The settings.
    device : Device
        Where to train, and in which precision.
    """

    sections: Sections
    held_out: LabelledStack
    augment: AugmentConfig
    train: TrainConfig
    device: Device

    @classmethod
    def of(cls, stack: LabelledStack, block: slice, augment: AugmentConfig, train: TrainConfig) -> Split:
        """Hold a block of sections out, and prepare the others."""
        train = fold_config(train, block)
        training, held_out = hold_out(stack, train)
        device = choose_device(train)
        return cls(
            bring_sections(training, train, None, device.torch_device), held_out, augment, train, device
        )

    @property
    def our_steps(self) -> int:
        """How many steps our recipe takes."""
        return steps_in_all(self.sections.images_ZCYX.numel(), self.train)

    def new_training(
        self, build: Build, *, planar: bool = False, average: float | None = None
    ) -> TrainingState:
        """Return a network with random weights and what it is trained with."""
        train = self.train if average is None else replace(self.train, average=average)
        layout = torch.contiguous_format if planar else torch.channels_last
        torch.manual_seed(train.seed)
        model = build().to(self.device.torch_device, memory_format=layout)  # type: ignore[call-overload]
        state = TrainingState.start(model, train, self.device)
        state.network = _Planar(model) if planar else model
        return state

    def step(self, state: TrainingState, step: int, total: int) -> Tensor:
        """Draw crops, take one step, average the weights; return the loss."""
        train = self.train
        state.set_learning_rate(learning_rate(step, total, train))
        batch = draw_batch(self.sections, self.augment, train, step)
        torch.manual_seed(step_seed(train, step))
        loss = take_step(state, *batch, train, self.sections.weight_scale)
        state.average.update_parameters(state.model)
        return loss


def cpu_per_step(
    split: Split, contenders: Mapping[str, tuple[Build, bool]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Measure the CPU time of a step of several networks, in turn, so that other work on the machine hits all alike.

    Parameters
    ----------
    split : Split
        What they are trained on.
    contenders : mapping of str to (callable, bool)
        The networks, and whether images are laid out plane by plane.
    rounds : int
        Steps of each that count, after `WARM_UP` that do not.

    Returns
    -------
    dict of str to float
        Median seconds of a step, all threads of this process together.
    """
    trainings = {
        name: split.new_training(build, planar=planar) for name, (build, planar) in contenders.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for step in range(WARM_UP + rounds):
        for name, training in trainings.items():
            started = time.process_time()
            split.step(training, step, WARM_UP + rounds)
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(taken[WARM_UP:]) for name, taken in seconds.items()}


def same_share(average: float, our_steps: int, steps: int) -> float:
    """Return the decay per step that averages over the same share of a run of another length."""
    return max(0.0, 1 - (1 - average) * our_steps / steps)


def train_and_score(
    split: Split,
    build: Build,
    stride: int,
    steps: int,
    *,
    planar: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train a network and score its averaged weights of the last step on what is held out.

    Parameters
    ----------
    split : Split
        What it is trained and scored on.
    build : callable
        The network.
    stride : int
        What section sizes must be multiples of.
    steps : int
        How many.
    planar : bool
        Whether images are laid out plane by plane.
    progress : callable, optional
        Called now and then with the steps taken, their total and the mean loss since the last call.

    Returns
    -------
    (dict, dict of str to Tensor)
        The result, whose scores are calibrated where our recipe calibrates, and the weights.

    Raises
    ------
    ModelError
        If the loss or the logits are no longer numbers.
    """
    average = same_share(split.train.average, split.our_steps, steps)
    training = split.new_training(build, planar=planar, average=average)
    cpu, wall = time.process_time(), time.perf_counter()
    losses: list[float] = []
    for step in range(steps):
        losses.append(split.step(training, step, steps).item())
        if not np.isfinite(losses[-1]):
            raise ModelError(f"the loss is no longer a number at step {step + 1}")
        if progress and ((step + 1) % _SAY_STEPS == 0 or step + 1 == steps):
            progress(step + 1, steps, statistics.fmean(losses[-_SAY_STEPS:]))
    taken = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    weights = training.average.module.eval()
    start = split.train.held_out(len(split.sections) + len(split.held_out))
    result = {
        "sections": f"{start.start}:{start.stop}",
        "steps": steps,
        "average": average,
        "training_loss": statistics.fmean(losses[-_SAY_STEPS:]),
        **taken,
        **scored(weights, split, stride),
    }
    return result, {name: tensor.detach().cpu().clone() for name, tensor in weights.state_dict().items()}


def scored(network: nn.Module, split: Split, stride: int) -> dict[str, Any]:
    """Score a network on whole held-out sections.

    Parameters
    ----------
    network : Module
        In evaluation mode.
    split : Split
        Holds the sections, and whether a factor and an offset are fitted to their logits, as our recipe does.
    stride : int
        What section sizes must be multiples of.

    Returns
    -------
    dict
        ``loss``, ``v_rand_thin``, ``v_info_thin``; where they are calibrated, ``calibration`` has the factor, the
        offset and the scores before.
    """
    held_out, train = split.held_out, split.train
    logits_ZYX = predict_whole(network, held_out.image_ZYX, stride=stride, border=train.border)
    before = scores_of(logits_ZYX, held_out)
    if not train.calibrate:
        return before
    try:
        factor, offset = fit_calibration(logits_ZYX, held_out.cell_ZYX)
    except ModelError as error:
        log.warning("%s; left as they are", error)
        return before
    after = scores_of((factor * logits_ZYX + offset).astype(np.float32), held_out)
    return after | {"calibration": {"factor": factor, "offset": offset, "before": before}}
