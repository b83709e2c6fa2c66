"""The training loop: draw crops, step, average the weights, validate and save."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isbi_infer.errors import UsageError
from isbi_infer.files import locked_folder
from isbi_infer.terminal import counted
from isbi_infer.terminal.progress import Display
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.config.inputs import Inputs
from isbi_train.config.settings import Settings, write_settings
from isbi_train.config.stacks import write_list
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.stacks import TrainingData
from isbi_train.networks.network import UNet
from isbi_train.networks.origins import ORIGINS
from isbi_train.networks.seen import SEEN, once
from isbi_train.training.batches import (
    Pool,
    Sections,
    batches,
    bring_stacks,
    epochs_in_all,
    step_seed,
    steps_in_all,
    steps_per_epoch,
)
from isbi_train.training.device import Device, choose_device
from isbi_train.training.distil import Teaching, digests_of, teach
from isbi_train.training.distributed import SINGLE_PROCESS, ProcessGroup
from isbi_train.training.finish import finish
from isbi_train.training.heads import heads_loss
from isbi_train.training.losses import loss as weighted_loss
from isbi_train.training.start import Start
from isbi_train.training.state import (
    BEST,
    LIST,
    MODEL,
    PROGRESS,
    SETTINGS,
    RunSettings,
    TrainingState,
    check_no_run,
    check_nothing_lost,
    make_run_folder,
)
from isbi_train.training.stopping import stop_between_steps
from isbi_train.training.topology import cldice_loss
from isbi_train.training.validate import HeldOut, validate

log = logging.getLogger(__name__)
Report = Callable[[dict[str, Any]], None]

_MEMORIES = 5  # of the averaged weights that a run is long at least
_CHECK_STEPS = 20  # between looks at the losses, each of which waits for the device


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to zero (Loshchilov and Hutter 2017, ICLR)."""
    warmup = min(config.warmup_steps, total // 5)  # a short run must leave its warm-up too
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def averaging_decay(total: int, config: TrainConfig) -> float:
    """Return the decay of the averaged weights per step, whose memory is at most a fifth of the run.

    The weights after the first step then hold less than exp(-5), 0.7 %, of the average at the end of a run of any
    length. A run of 2,500 steps keeps its 0.998 as it is.
    """
    average = 1 - 1 / (config.average_share * total) if config.average_share else config.average
    return max(0.0, min(average, 1 - _MEMORIES / total))


def fit(
    stack: LabelledStack | TrainingData,
    out: Path,
    *,
    network: NetworkConfig,
    augment: AugmentConfig,
    train: TrainConfig,
    inputs: Inputs | None = None,
    resume: bool = False,
    report: Report | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    display: Display | None = None,
) -> Path:
    """Train a U-Net and keep its checkpoints.

    Every step's randomness is a function of the seed and the step alone, so a resumed run continues as if it had
    never stopped.

    Parameters
    ----------
    stack : LabelledStack or TrainingData
        All labelled sections, of which those that `train` holds out are only validated on; or several stacks, see
        `isbi_train.data.stacks.read_stacks`.
    out : Path
        Folder for ``model.pth`` (averaged weights of the last validation), ``best.pth`` (those of the best V_rand,
        of several stacks those whose worst stack is best), ``progress.pth`` and ``progress.previous.pth`` (to resume
        from), ``history.json`` and ``settings.toml``.
    network, augment, train : NetworkConfig, AugmentConfig, TrainConfig
        Settings of the run.
    inputs : Inputs, optional
        Names ``init``, ``teachers`` and ``unlabelled``, and where the stack comes from.
    resume : bool
        Continue from ``progress.pth`` where it exists.
    report : callable, optional
        Called with one dictionary per validation, in the main process.
    processes : ProcessGroup
        The processes that train together; all see the same files.
    display : Display, optional
        Told of steps with their loss and rate, and of what comes before and after them.

    Returns
    -------
    Path
        ``model.pth``.

    Raises
    ------
    UsageError
        If the sections do not suit the settings, a teacher has seen held-out sections, a run is resumed with other
        settings or data, or a new one is started where there is one.
    ImageError
        As `isbi_train.training.validate.check_scorable`.
    DependencyError
        If CUDA is asked for and absent.
    ModelError
        If what is to be resumed from is damaged, ``init`` or a teacher cannot be trusted, or the loss is no longer a
        number.
    OutputError
        If the folder cannot be written to.
    BusyError
        If another run holds the folder.
    Interrupted
        By Ctrl-C or SIGTERM, once the step in hand is finished and ``progress.pth`` is written.
    """
    inputs, display = inputs or Inputs(), display or Display()
    if isinstance(stack, LabelledStack):
        train = train.counted(len(stack))
        everything = TrainingData.of_one(stack, train)
        notes, split_lines = list(stack.notes), [train.split_line(len(stack))]
        known = {"this stack": (stack, train.held_out(len(stack)))}
        teaching = Teaching.of(inputs, stack, train)
        teachings = {"": teaching} if teaching else {}
    else:
        everything = stack
        notes = [note for part in stack.stacks for note in part.held_out.notes]
        split_lines = [part.line() for part in stack.stacks]
        known = {
            part.name: (part.stored.whole, part.stored.split.held_out(len(part.stored.whole)))
            for part in stack.stacks
            if part.stored
        }
        if inputs.teachers or inputs.unlabelled:
            raise UsageError(
                "in a list each stack has its own teachers and unlabelled sections; name them there, and leave out "
                "--teacher and --unlabelled"
            )
        teachings = Teaching.of_list(stack)
    _check_crop(train.crop, network.stride)
    if augment.slip_probability and not network.neighbours:
        raise UsageError(
            "augment.slip_probability displaces neighbours, and this network sees none; add --neighbours 1"
        )
    processes.share(train.batch)  # a batch that cannot be shared out is refused before any work
    device = choose_device(train, processes.local_rank)
    held_out = [HeldOut.of(part, train) for part in everything.stacks]
    torch.manual_seed(train.seed)
    model = UNet(network)
    data = dict(everything.facts)
    start = Start.read(inputs.init, network.arch) if inputs.init else None
    if teachings:
        data["teaching"] = digests_of(teachings)
    if start:
        start.load_into(model)
        data["init"] = start.sha256
    taught_by = [origin for teaching in teachings.values() for origin in teaching.origins]
    grown_from = (*(start.origins if start else ()), *taught_by)
    seen_before = (*(start.weights.seen if start else ()), *(s for t in teachings.values() for s in t.seen))
    if seen_before:
        data[SEEN] = [stack.to_plain() for stack in once(seen_before)]
    if grown_from:
        data[ORIGINS] = [origin.to_plain() for origin in dict.fromkeys(grown_from)]
    model = model.to(device.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainingState.start(model, train, device)
    settings = RunSettings(network, augment, train, data)
    inputs = replace(inputs, sha256=_sha256_by_name(data, inputs))

    with ExitStack() as held:
        processes.run_on_main(partial(_hold_folder, out, held, resume))
        if resume and state.resume(out, settings):
            log.info("resumed after epoch %d and %d more steps", state.epoch, len(state.losses))
        elif resume:
            check_nothing_lost(out)
            log.warning("%s: no %s to resume from, starting a new run", out, PROGRESS)
        written = Settings(network=network, augment=augment, train=train, inputs=inputs)
        processes.run_on_main(partial(write_settings, out / SETTINGS, written))
        if inputs.stacks == str(out.absolute() / LIST):
            entries = [part.stored.entry for part in everything.stacks if part.stored]
            processes.run_on_main(partial(write_list, out / LIST, entries))
        if not state.finished(epochs_in_all(train), train.patience):
            for note in notes:
                log.warning("%s", note)
            for line in split_lines:
                log.info("%s", line)
            if start:
                start.say(network, everything.facts["pixel_size_nm"], known)
            log.info("%s", _what_trains(model, everything, train, device))
            soft = teach(everything, teachings, display)
            display.stage("preparing the sections")
            sections = bring_stacks(everything.stacks, train, soft, device.torch_device, augment)
            _train(
                state,
                sections,
                held_out,
                settings=settings,
                out=out,
                report=report,
                processes=processes,
                display=display,
            )
        for name in (MODEL, BEST):
            display.stage(f"finishing {name}")
            processes.run_on_main(partial(finish, out / name, train, everything, held_out))
    return out / MODEL


def _train(
    state: TrainingState,
    sections: Sections | Pool,
    held_out: Sequence[HeldOut],
    *,
    settings: RunSettings,
    out: Path,
    report: Report | None,
    processes: ProcessGroup,
    display: Display,
) -> None:
    """Take step after step until the run is finished."""
    train, augment, stride = settings.train, settings.augment, settings.network.stride
    epoch_steps = steps_per_epoch(sections.pixels, train)
    total, epochs = steps_in_all(sections.pixels, train), epochs_in_all(train)
    steps, share = range(state.steps_taken(epoch_steps), total), processes.share(train.batch)
    log.info(
        "%s of %s, %d an epoch; threads: %d",
        counted(total, "step"),
        counted(train.batch, "crop") + f" of {train.crop} x {train.crop}",
        epoch_steps,
        torch.get_num_threads(),
    )
    state.network = processes.distribute(state.network, train.batch)
    state.set_averaging_decay(averaging_decay(total, train))
    started = time.perf_counter()

    def validate_and_save() -> None:
        display.stage("validating")
        entry = {
            "epoch": epoch,
            "training_loss": training_loss,
            **validate(
                state.average.module.eval(),
                held_out,
                stride=stride,
                border=train.border,
                count=train.validated_sections,
            ),
            "seconds": time.perf_counter() - started,
        }
        state.history.append(entry)
        state.save_model(out, settings)
        state.save_progress(out, settings, epoch)
        if report:
            report(entry)
        display.stage("step", already=step + 1)

    display.stage("step", already=steps.start)
    with stop_between_steps() as stop:
        for step, batch in batches(sections, augment, train, steps, share, settings.network.neighbours):
            rate = learning_rate(step, total, train)
            state.set_learning_rate(rate)
            torch.manual_seed(step_seed(train, step))  # dropout
            loss = take_step(state, *batch, train, sections.weight_scale)
            state.losses.append(processes.mean(loss))
            state.average.update_parameters(state.model)

            epoch, rest = divmod(step + 1, epoch_steps)
            if step + 1 == total:  # the last epoch may be shorter
                epoch, rest = epochs, 0
            due = rest == 0 and (epoch % train.checkpoint_epochs == 0 or epoch == epochs)
            stopping = processes.any(bool(stop))
            if display.due():
                display(step + 1, total, f"loss {loss.item():.4f}", *_best(state), f"rate {rate:.2g}")
            if due or stopping or step % _CHECK_STEPS == 0:
                state.check_finite()
            if due:
                training_loss = torch.stack(state.losses).mean().item()
                state.losses.clear()
                processes.run_on_main(validate_and_save)
                if processes.any(state.finished(epochs_in_all(train), train.patience)):
                    break
            if stopping:
                processes.run_on_main(partial(state.save_progress, out, settings, epoch))
                stop.leave(f"{out}: saved after step {step + 1} of {total}; --resume goes on from there")


def _best(state: TrainingState) -> list[str]:
    found = [entry["v_rand_thin"] for entry in state.history]
    return [f"best V_rand {max(found):.4f}"] if found else []


def _what_trains(model: UNet, data: TrainingData, train: TrainConfig, device: Device) -> str:
    """Return a line for users on pixel size, network, and where it is trained."""
    size, network = data.facts["pixel_size_nm"], model.config
    weights = sum(parameter.numel() for parameter in model.parameters())
    many = f"{weights / 1e6:.1f} M" if weights >= 1e6 else f"{weights / 1e3:.1f} k"
    return (
        f"pixels of {f'{size:g} nm' if size else 'unknown size'}; {network.arch}, {many} weights "
        f"(base {network.base}, depth {network.depth}, unshuffle {network.unshuffle}); {device}"
    )


def take_step(
    state: TrainingState,
    images_NCYX: Tensor,
    maps_NKYX: Tensor,
    membrane_weight: Tensor,
    train: TrainConfig,
    weight_scale: float,
) -> Tensor:
    """Take one step of the optimiser.

    Parameters
    ----------
    state : TrainingState
        Its weights change; their average does not.
    images_NCYX, maps_NKYX, membrane_weight : Tensor
        Crops, their maps, and the weights of their membranes, see `isbi_train.training.batches.Batch`.
    train : TrainConfig
        Weights of what is learnt besides, and the longest gradient.
    weight_scale : float
        See `isbi_train.training.losses.mean_weight`.

    Returns
    -------
    Tensor
        The loss, a scalar.
    """
    state.network.train()
    with state.device.autocast():
        found = state.network(images_NCYX.contiguous(memory_format=torch.channels_last))
    logits_NCYX, others = found if state.heads else (found, {})
    loss = weighted_loss(logits_NCYX, maps_NKYX, membrane_weight, weight_scale)
    if others:
        loss = loss + heads_loss(others, maps_NKYX, membrane_weight, train, weight_scale)
    if train.cldice_weight:
        loss = loss + train.cldice_weight * cldice_loss(logits_NCYX, maps_NKYX)

    state.optimiser.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimiser)
    if train.clip_norm > 0:
        nn.utils.clip_grad_norm_(state.network.parameters(), train.clip_norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    return loss.detach()


def _hold_folder(out: Path, held: ExitStack, resume: bool) -> None:
    make_run_folder(out)
    held.enter_context(locked_folder(out))
    if not resume:
        check_no_run(out)


def _check_crop(crop: int, stride: int) -> None:
    # BatchNorm needs more than one value at the deepest level, and the blur's kernel reaches 4 pixels.
    smallest = max(2 * stride, 8)
    if crop % stride or crop < smallest:
        raise UsageError(
            f"crop {crop} is not a multiple of the network's stride {stride}, or is too small; "
            f"try {max(smallest, crop // stride * stride)}"
        )


def _sha256_by_name(data: dict[str, Any], inputs: Inputs) -> dict[str, str]:
    """Name the contents of all inputs, and see that they are those that the settings ask for."""
    found = {**data["sha256"], **data.get("teaching", {})}
    if "init" in data:
        found["init"] = data["init"]
    inputs.check_sha256(found)
    return found
