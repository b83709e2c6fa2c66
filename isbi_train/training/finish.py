"""What is done to the checkpoints of a run that is over: calibrated, scored, described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isbi_infer.pixels.mending import normalising_section
from isbi_infer.pixels.texture import Familiar, Look, texture_of
from isbi_train.config import TrainConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.stacks import TrainingData
from isbi_train.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from isbi_train.networks.whole import predict_whole
from isbi_train.training.calibrate import best_level, calibrated
from isbi_train.training.validate import HeldOut, summary_of

_SECTIONS = 50  # of a part that are looked at


def finish(path: Path, train: TrainConfig, data: TrainingData, held_out: Sequence[HeldOut]) -> None:
    """Finish a checkpoint, once: score it on all held-out sections, calibrate it, and describe it.

    Parameters
    ----------
    path : Path
        ``model.pth`` or ``best.pth``. Gets ``scores["threshold"]``, the probability above which pixels are best taken
        as cell, and ``data["familiar"]``, how the training sections look; see `isbi_infer.model.contract`.
    train : TrainConfig
        Says whether it is to be calibrated, and whether validations scored but some sections.
    data : TrainingData
        What the run was trained on.
    held_out : sequence of HeldOut
        What it was validated on.
    """
    checkpoint = load_checkpoint(path)
    if is_finished(checkpoint):
        return
    network, stride = checkpoint.load_network(), checkpoint.network.stride
    logits = [
        predict_whole(
            network, part.scored.image_ZYX, stride=stride, border=train.border, runs=part.scored.runs
        )
        for part in held_out
    ]
    if train.calibrate:
        checkpoint, logits = calibrated(checkpoint, logits, held_out)
    if train.validated_sections and "calibration" not in checkpoint.scores:
        scores = summary_of(logits, held_out)
        checkpoint = replace(checkpoint, scores={**checkpoint.scores, **scores})
    threshold = torch.sigmoid(torch.tensor(best_level(logits, held_out), dtype=torch.float64)).item()
    scores = {**checkpoint.scores, "threshold": round(threshold, 6)}
    familiar = familiar_to(data)
    known = {"familiar": familiar.to_plain()} if familiar else {}
    save_checkpoint(path, replace(checkpoint, scores=scores, data={**checkpoint.data, **known}))


def is_finished(checkpoint: Checkpoint) -> bool:
    """Return whether the run of a checkpoint is over, and `finish` was here."""
    return "threshold" in checkpoint.scores


def familiar_to(data: TrainingData) -> Familiar | None:
    """Measure how the sections look that a run is trained on; None where they are too small to tell."""
    looks, others = [], []
    for stack in data.stacks:
        trained = [texture for part in stack.parts for texture in _textures(part)]
        if trained:
            looks.append(Look.of(stack.name, trained))
            others += _textures(stack.held_out)
    return Familiar.of(looks, others) if looks else None


def _textures(stack: LabelledStack) -> list[tuple[float, ...]]:
    step = max(1, len(stack) // _SECTIONS)
    found: list[Any] = [
        texture_of(section_YX, normalising_section(section_YX)) for section_YX in stack.image_ZYX[::step]
    ]
    return [texture for texture in found if texture is not None]
