"""Which sections of a stack are trained on and which are held out; neighbours look alike, so always in blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from isbi_infer.errors import UsageError
from isbi_infer.terminal import counted
from isbi_train.config import TrainConfig
from isbi_train.data.labelled import LabelledStack


def hold_out(stack: LabelledStack, train: TrainConfig) -> tuple[LabelledStack, LabelledStack]:
    """Split a stack.

    Parameters
    ----------
    stack : LabelledStack
        All labelled sections.
    train : TrainConfig
        Gives ``hold_out`` and ``hold_out_start``.

    Returns
    -------
    (LabelledStack, LabelledStack)
        For training and for validation, without sections that nobody annotated.

    Raises
    ------
    UsageError
        If there are too few sections, or none of either is annotated.
    """
    held_out = train.held_out(len(stack))
    training = stack[np.delete(np.arange(len(stack)), held_out)].annotated()
    validation = stack[held_out].annotated()
    check_some(training, validation, held_out)
    return training, validation


def check_some(training: LabelledStack, validation: LabelledStack, held_out: slice) -> None:
    """Raise UsageError where no section of either part is annotated."""
    if not len(validation):
        raise UsageError(
            f"nobody annotated any of the held-out sections {held_out.start}:{held_out.stop}; hold out others, with "
            "--hold-out and train.hold_out_start"
        )
    if not len(training):
        raise UsageError("nobody annotated any of the sections to train on; hold out others, or fewer")


def blocks(sections: int, folds: int) -> list[slice]:
    """Cut a stack into blocks of neighbouring sections, whose lengths differ by one at most.

    Parameters
    ----------
    sections, folds : int
        Of the stack, and how many blocks.

    Returns
    -------
    list of slice

    Raises
    ------
    UsageError
        If there are fewer than two blocks, or fewer sections than blocks.
    """
    if not 2 <= folds <= sections:
        raise UsageError(
            f"cannot cut {counted(sections, 'section')} into {folds} folds; give 2 to {sections}, or more sections"
        )
    cuts = [round(fold * sections / folds) for fold in range(folds + 1)]
    return [slice(start, stop) for start, stop in pairwise(cuts)]


def ranges(text: str) -> list[slice]:
    """Read what `TrainConfig.training_sections` wrote, such as "0:10,15:30"; nothing else is understood."""
    found = []
    for part in text.split(","):
        start, _, stop = part.partition(":")
        if start.isdecimal() and stop.isdecimal():
            found.append(slice(int(start), int(stop)))
    return found
