"""The training loop: draw crops, step, average the weights, validate and save."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from isbi_infer.errors import DependencyError, UsageError
from isbi_infer.files import replacing
from isbi_infer.normalise import intensity_statistics, normalise
from isbi_train.augment import random_crops
from isbi_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.data import LabelledStack, split
from isbi_train.network import UNet
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
    features = getattr(torch.cpu, "get_capabilities", dict)()
    native = features.get("avx512_bf16") or features.get("amx_bf16")
    return Arithmetic(device, torch.bfloat16 if native else torch.float32)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Give the rate of a step: linear warm-up, then a cosine to zero (Loshchilov and Hutter 2017, ICLR)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def section_tensors(stack: LabelledStack, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalise each section with its own statistics and bring the stack to the device.

    Returns
    -------
    (Tensor, Tensor)
        Grey values and labels (1 = cell), float32, each of shape (Z, 1, Y, X).
    """
    image_ZYX = np.stack([normalise(s, intensity_statistics(s)) for s in stack.image_ZYX])
    to_device = (torch.from_numpy(a)[:, None].to(device) for a in (image_ZYX, stack.cell_ZYX.astype(np.float32)))
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
        Folder for ``model.pth`` (averaged weights of the last checkpoint), ``best.pth`` (those of the best V_rand),
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
    """
    training, held_out = split(stack, train.hold_out)
    if train.crop % network.stride:
        raise UsageError(f"crop {train.crop} is not a multiple of the network's stride {network.stride}")
    arithmetic = choose_arithmetic(train)
    torch.manual_seed(train.seed)
    model = UNet(network).to(arithmetic.device, memory_format=torch.channels_last)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(train.average), use_buffers=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)
    scaler = torch.amp.GradScaler(arithmetic.device.type, enabled=arithmetic.dtype == torch.float16)
    images, labels = section_tensors(training, arithmetic.device)
    steps_per_epoch = max(1, round(images.numel() / (train.batch * train.crop**2)))
    total = train.epochs * steps_per_epoch
    data = {"sha256": stack.sha256(), "sections": len(stack), "pixel_size_nm": stack.pixel_size_nm}

    state = {"model": model, "average": average, "optimiser": optimiser, "scaler": scaler}
    history: list[dict[str, Any]] = []
    epoch = 0
    out.mkdir(parents=True, exist_ok=True)
    if resume and (out / "progress.pth").exists():
        saved = load_checkpoint(out / "progress.pth")
        _check_same_run(saved, network, augment, train, data)
        for name, part in state.items():
            part.load_state_dict(saved.progress[name])
        history, epoch = saved.progress["history"], saved.epoch
        log.info("resumed after epoch %d", epoch)
    log.info("training on %s in %s, %d steps", arithmetic.device, arithmetic.dtype, total)

    started = time.perf_counter()
    losses: list[Tensor] = []
    while epoch < train.epochs:
        for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, total, train)
            losses.append(
                _step(model, optimiser, scaler, arithmetic, images, labels, augment, train, step)
            )
            average.update_parameters(model)
        epoch += 1
        if epoch % train.checkpoint_epochs and epoch < train.epochs:
            continue
        entry = {
            "epoch": epoch,
            "training_loss": torch.stack(losses).mean().item(),
            **validate(average.module.eval(), held_out, stride=network.stride, border=train.border),
            "seconds": time.perf_counter() - started,
        }
        losses.clear()
        history.append(entry)
        _save(out, state, history, network=network, augment=augment, train=train, data=data)
        if report:
            report(entry)
    return out / "model.pth"


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
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
    model.train()
    with arithmetic.autocast():
        logits_NCYX = model(image_NCYX.contiguous(memory_format=torch.channels_last))
    loss = F.binary_cross_entropy_with_logits(logits_NCYX.float(), label_NCYX)
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimiser)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimiser)
    scaler.update()
    return loss.detach()


def _check_same_run(
    saved: Checkpoint, network: NetworkConfig, augment: AugmentConfig, train: TrainConfig, data: dict[str, Any]
) -> None:
    then = {**saved.network.to_plain(), **saved.augment.to_plain(), **saved.train.to_plain(), **saved.data}
    now = {**network.to_plain(), **augment.to_plain(), **train.to_plain(), **data}
    differing = [f"{key}: {then[key]!r} -> {now[key]!r}" for key in now if then[key] != now[key]]
    if differing:
        raise UsageError("cannot resume, the run differs from the one that was stopped: " + "; ".join(differing))


def _save(out: Path, state: dict[str, Any], history: list[dict[str, Any]], **settings: Any) -> None:
    entry = history[-1]
    train: TrainConfig = settings["train"]
    sections = settings["data"]["sections"]
    scores = {key: entry[key] for key in ("loss", "v_rand_thin", "v_info_thin")}
    scores["sections"] = f"{sections - train.hold_out}:{sections}"
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in state["average"].module.state_dict().items()}
    lean = Checkpoint(state_dict=weights, epoch=entry["epoch"], scores=scores, **settings)
    progress = {name: part.state_dict() for name, part in state.items()} | {"history": history}
    full = Checkpoint(
        state_dict=weights, epoch=entry["epoch"], scores=scores, progress=progress, **settings
    )
    save_checkpoint(out / "progress.pth", full)
    save_checkpoint(out / "model.pth", lean)
    if entry["v_rand_thin"] >= max(e["v_rand_thin"] for e in history):
        save_checkpoint(out / "best.pth", lean)
    with replacing(out / "history.json") as temporary:
        temporary.write_text(json.dumps(history, indent=1))
