"""The training loop: draw crops, step, average the weights, validate and save."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from isbi_infer.errors import DependencyError, UsageError
from isbi_infer.normalise import intensity_statistics, normalise
from isbi_train.augment import random_crops
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.data import LabelledStack, split
from isbi_train.network import UNet
from isbi_train.run import MODEL, PROGRESS, Run, RunSettings, make_run_folder
from isbi_train.stopping import stop_between_steps
from isbi_train.validate import validate

log = logging.getLogger(__name__)
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Where and how narrowly training computes."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """Give the context in which the network runs."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def choose_arithmetic(config: TrainConfig) -> Arithmetic:
    """Resolve "auto" to what this machine has.

    Parameters
    ----------
    config : TrainConfig
        Gives ``device`` and ``precision``.

    Returns
    -------
    Arithmetic

    Raises
    ------
    DependencyError
        If CUDA is asked for and absent.
    """
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise DependencyError("CUDA was asked for, but torch finds no CUDA device; use --device cpu")
    device = torch.device("cuda" if cuda and config.device != "cpu" else "cpu")
    if config.precision != "auto":
        return Arithmetic(device, getattr(torch, config.precision))
    if device.type == "cuda":
        return Arithmetic(device, torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16)
    features: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = features.get("avx512_bf16") or features.get("amx_bf16")
    return Arithmetic(device, torch.bfloat16 if native else torch.float32)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Give the rate of a step: linear warm-up, then a cosine to zero (Loshchilov and Hutter 2017, ICLR)."""
    warmup = min(config.warmup_steps, total // 5)  # a short run must leave its warm-up too
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def section_tensors(stack: LabelledStack, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalise each section with its own statistics and bring the stack to the device.

    Returns
    -------
    (Tensor, Tensor)
        Grey values and labels (1 = cell), float32, each of shape (Z, 1, Y, X).
    """
    image_ZYX = np.stack([normalise(s, intensity_statistics(s)) for s in stack.image_ZYX])
    to_device = (
        torch.from_numpy(a)[:, None].to(device) for a in (image_ZYX, stack.cell_ZYX.astype(np.float32))
    )
    images_ZCYX, labels_ZCYX = to_device
    return images_ZCYX, labels_ZCYX


def fit(
    stack: LabelledStack,
    out: Path,
    *,
    network: NetworkConfig,
    augment: AugmentConfig,
    train: TrainConfig,
    resume: bool = False,
    report: Report | None = None,
) -> Path:
    """Train a U-Net and keep its checkpoints.

    Every step's randomness is a function of the seed and the step alone, so a resumed run continues as if it had
    never stopped.

    Parameters
    ----------
    stack : LabelledStack
        All labelled sections; the last ``train.hold_out`` are only validated on.
    out : Path
        Folder for ``model.pth`` (averaged weights of the last validation), ``best.pth`` (those of the best V_rand),
        ``progress.pth`` (to resume from) and ``history.json``.
    network, augment, train : NetworkConfig, AugmentConfig, TrainConfig
        The settings.
    resume : bool
        Continue from ``progress.pth`` where it exists.
    report : callable, optional
        Called with one dictionary per validation.

    Returns
    -------
    Path
        ``model.pth``.

    Raises
    ------
    UsageError
        If the sections do not suit the settings, or a run is resumed with other settings or data.
    DependencyError
        If CUDA is asked for and absent.
    ModelError
        If the ``progress.pth`` to resume from is damaged.
    OutputError
        If the folder cannot be written to.
    Interrupted
        By Ctrl-C or SIGTERM, once the step in hand is finished and ``progress.pth`` is written.
    """
    training, held_out = split(stack, train.hold_out)
    _check_crop(train.crop, network.stride)
    arithmetic = choose_arithmetic(train)
    torch.manual_seed(train.seed)
    model = UNet(network).to(arithmetic.device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    run = Run(
        model,
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(train.average), use_buffers=True),
        torch.optim.AdamW(model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay),
        torch.amp.GradScaler(arithmetic.device.type, enabled=arithmetic.dtype == torch.float16),
    )
    images, labels = section_tensors(training, arithmetic.device)
    steps_per_epoch = max(1, round(images.numel() / (train.batch * train.crop**2)))
    total = train.epochs * steps_per_epoch
    data = {"sha256": stack.sha256(), "sections": len(stack), "pixel_size_nm": stack.pixel_size_nm}
    settings = RunSettings(network, augment, train, data)

    make_run_folder(out)
    if resume and (out / PROGRESS).exists():
        run.restore(out / PROGRESS, settings)
        log.info("resumed after step %d", run.step(steps_per_epoch))
    elif resume:
        log.warning("%s: no %s to resume from, starting a new run", out, PROGRESS)
    log.info("training on %s in %s, %d steps", arithmetic.device, arithmetic.dtype, total)

    started = time.perf_counter()
    with stop_between_steps() as stop:
        for step in range(run.step(steps_per_epoch), total):
            for group in run.optimiser.param_groups:
                group["lr"] = learning_rate(step, total, train)
            run.losses.append(_step(run, arithmetic, images, labels, augment, train, step))
            run.average.update_parameters(model)
            epoch, rest = divmod(step + 1, steps_per_epoch)
            if rest == 0 and (epoch % train.checkpoint_epochs == 0 or epoch == train.epochs):
                entry = {
                    "epoch": epoch,
                    "training_loss": torch.stack(run.losses).mean().item(),
                    **validate(
                        run.average.module.eval(), held_out, stride=network.stride, border=train.border
                    ),
                    "seconds": time.perf_counter() - started,
                }
                run.losses.clear()
                run.history.append(entry)
                run.save_model(out, settings)
                run.save_progress(out, settings, epoch)
                if report:
                    report(entry)
            if stop:
                run.save_progress(out, settings, epoch)
                log.info("stopped after step %d of %d; --resume goes on from there", step + 1, total)
                stop.leave()
    return out / MODEL


def _check_crop(crop: int, stride: int) -> None:
    # BatchNorm needs more than one value at the deepest level, and the blur's kernel reaches 4 pixels.
    smallest = max(2 * stride, 8)
    if crop % stride or crop < smallest:
        raise UsageError(
            f"crop {crop} is not a multiple of the network's stride {stride}, or is too small; "
            f"try {max(smallest, crop // stride * stride)}"
        )


def _step(
    run: Run,
    arithmetic: Arithmetic,
    images_ZCYX: Tensor,
    labels_ZCYX: Tensor,
    augment: AugmentConfig,
    train: TrainConfig,
    step: int,
) -> Tensor:
    """Draw one batch, take one step, and give its loss."""
    generator = torch.Generator().manual_seed(train.seed * 2**32 + step)
    torch.manual_seed(train.seed * 2**32 + step)  # dropout
    sections = torch.randint(len(images_ZCYX), (train.batch,), generator=generator).to(images_ZCYX.device)
    image_NCYX, label_NCYX = random_crops(
        images_ZCYX[sections], labels_ZCYX[sections], train.crop, augment, generator
    )
    run.model.train()
    with arithmetic.autocast():
        logits_NCYX = run.model(image_NCYX.contiguous(memory_format=torch.channels_last))
    loss = F.binary_cross_entropy_with_logits(logits_NCYX.float(), label_NCYX)
    run.optimiser.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    run.scaler.unscale_(run.optimiser)
    nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.scaler.step(run.optimiser)
    run.scaler.update()
    return loss.detach()
