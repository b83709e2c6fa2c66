"""The scores of a network on held-out sections."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from isbi_infer.errors import ImageError, IsbiError, ModelError
from isbi_train.config import TrainConfig
from isbi_train.data.borders import learnt_labels
from isbi_train.data.checks import check_learnable
from isbi_train.data.labelled import LabelledStack, named_sections
from isbi_train.data.labels import MOST_MEMBRANE
from isbi_train.data.stacks import TrainingStack
from isbi_train.networks.whole import predict_whole
from isbi_train.scores.inputs import share_of_membrane
from isbi_train.scores.metrics import thinned_scores

SCORES = ("loss", "v_rand_thin", "v_info_thin")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out sections of one stack.

    Attributes
    ----------
    name : str
        Of the stack; empty where it is the only one.
    scored : LabelledStack
        With the labels that are scored against.
    learnt : LabelledStack
        The same sections with the labels that the loss compares with.
    """

    name: str
    scored: LabelledStack
    learnt: LabelledStack

    @classmethod
    def of(cls, stack: TrainingStack, train: TrainConfig) -> HeldOut:
        """Return the held-out sections of a stack.

        Raises
        ------
        IsbiError
            Naming the stack, as `check_scorable` and `isbi_train.data.checks.check_learnable`; and if those that a run
            validates on while it trains show no tissue.
        """
        try:
            check_scorable(stack.held_out, train)
            check_learnable([stack.held_out], train, "what is held out")
            found = cls(stack.name, stack.held_out, learnt_labels(stack.held_out, train))
            validated = found.spread(train.validated_sections).learnt
            if validated.ignored_ZYX is not None and validated.ignored_ZYX.all():
                raise ImageError(
                    f"of what is held out a run validates on {named_sections(validated.numbers)} (from 0) while it "
                    "trains, where no tissue has labels; hold out others, or raise train.validated_sections"
                )
        except IsbiError as error:
            raise type(error)(f"stack {stack.name!r}: {error}" if stack.name else str(error)) from error
        return found

    def chosen(self, count: int) -> list[int]:
        """Return the numbers of so many of the sections, spread evenly; of all where `count` is 0 or no fewer."""
        return _spread(len(self.scored), count)

    def spread(self, count: int) -> HeldOut:
        """Return so many of the sections, see `chosen`."""
        chosen = np.array(self.chosen(count))
        if len(chosen) == len(self.scored):
            return self
        return HeldOut(self.name, self.scored[chosen], self.learnt[chosen])


def _spread(sections: int, count: int) -> list[int]:
    if not 0 < count < sections:
        return list(range(sections))
    return [(2 * number + 1) * sections // (2 * count) for number in range(count)]


def check_scorable(held_out: LabelledStack, train: TrainConfig) -> None:
    """Refuse held-out sections that V_rand and V_info cannot be computed of, before anything is trained.

    Parameters
    ----------
    held_out : LabelledStack
        The sections.
    train : TrainConfig
        Says on how many of them a run validates while it trains.

    Raises
    ------
    ImageError
        If a section has no cell, or most of their labels, or of those that a run validates on while it trains, are
        membrane.
    """
    ignored_ZYX = held_out.ignored_ZYX
    truth_ZYX = held_out.cell_ZYX if held_out.ids_ZYX is None else held_out.ids_ZYX > 0
    has_cells_Z = (truth_ZYX if ignored_ZYX is None else truth_ZYX & ~ignored_ZYX).any(axis=(1, 2))
    if not has_cells_Z.all():
        size_nm = held_out.pixel_size_nm
        raise ImageError(
            f"the labels of {named_sections(held_out.numbers[~has_cells_Z])} (from 0), held out for validation, hold "
            f"no cell{f' at {size_nm:g} nm' if size_nm else ''}: V_rand and V_info cannot be computed there; annotate "
            "more of it, or hold out others"
        )
    cell_ZYX = held_out.cell_ZYX if ignored_ZYX is None else held_out.cell_ZYX & ~ignored_ZYX
    for count in dict.fromkeys((0, train.validated_sections)):
        chosen = _spread(len(held_out), count)
        share = share_of_membrane(cell_ZYX[chosen], None if ignored_ZYX is None else ignored_ZYX[chosen])
        if share > MOST_MEMBRANE:
            raise ImageError(
                f"{share:.1%} of the labels of what is held out are membrane, expected less than half: V_rand and "
                "V_info cannot be computed of them; annotate these sections whole, or hold out others"
            )


def validate(
    network: nn.Module, held_out: Sequence[HeldOut], *, stride: int, border: int, count: int = 0
) -> dict[str, Any]:
    """Score a network on held-out sections.

    Parameters
    ----------
    network : Module
        In evaluation mode.
    held_out : sequence of HeldOut
        Sections that training never sees.
    stride, border : int
        Padding, as in `isbi_infer.plan.tiles.plan_section`.
    count : int
        How many sections of each stack are scored, see `HeldOut.spread`.

    Returns
    -------
    dict
        ``loss`` (binary cross-entropy), ``v_rand_thin``, ``v_info_thin``; plain types. Of stacks with names these are
        means over the stacks; ``stacks`` has those of each, and ``worst`` is the lowest mean of V_rand and V_info.
    """
    parts = [stack.spread(count) for stack in held_out]
    logits = (
        predict_whole(
            network,
            stack.scored.image_ZYX,
            stride=stride,
            border=border,
            only=stack.chosen(count),
            runs=stack.scored.runs,
        )
        for stack in held_out
    )
    return summary_of(logits, parts)


def summary_of(logits: Iterable[npt.NDArray[np.float32]], held_out: Sequence[HeldOut]) -> dict[str, Any]:
    """Return what `validate` does, of logits of cell interior, of shape (Z, Y, X), for each stack."""
    found = {
        part.name: scores_of(logits_ZYX, part.scored, part.learnt)
        for logits_ZYX, part in zip(logits, held_out, strict=True)
    }
    if list(found) == [""]:
        return found[""]
    means = {key: statistics.fmean(scores[key] for scores in found.values()) for key in SCORES}
    return {**means, "worst": min(mean_score(scores) for scores in found.values()), "stacks": found}


def mean_score(scores: dict[str, Any]) -> float:
    """Return the mean of V_rand and V_info."""
    return float((scores["v_rand_thin"] + scores["v_info_thin"]) / 2)


def scores_of(
    logits_ZYX: npt.NDArray[np.float32], held_out: LabelledStack, learnt: LabelledStack | None = None
) -> dict[str, Any]:
    """Score logits of held-out sections, of shape (Z, Y, X), as `validate` does.

    Parameters
    ----------
    logits_ZYX : ndarray of float32
        Of cell interior.
    held_out : LabelledStack
        With the labels that are scored against.
    learnt : LabelledStack, optional
        With the labels that the loss compares with, where they are others.

    Raises
    ------
    ModelError
        If some are no numbers.
    """
    if not np.isfinite(logits_ZYX).all():
        raise ModelError(
            "the network gives NaN or infinite logits on the held-out sections; train anew with a lower "
            "learning rate, or with --precision fp32"
        )
    logits = torch.from_numpy(logits_ZYX)
    learnt = learnt or held_out
    if learnt.ignored_ZYX is None:
        loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(learnt.cell_ZYX).float())
    else:
        counted = torch.from_numpy(~learnt.ignored_ZYX)
        cell = torch.from_numpy(learnt.cell_ZYX)[counted].float()
        loss = F.binary_cross_entropy_with_logits(logits[counted], cell)
    scores = thinned_scores(
        torch.sigmoid(logits).numpy(),
        held_out.cell_ZYX,
        ids=held_out.ids_ZYX,
        ignored=held_out.ignored_ZYX,
    )
    return {"loss": loss.item(), "v_rand_thin": float(scores.v_rand), "v_info_thin": float(scores.v_info)}
