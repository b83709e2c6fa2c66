"""The labelled stacks of a run: what each is trained on and validated on, at one pixel size.

::

    one stack            ->  sections trained on, sections held out
    a list of stacks     ->  the same for each, cut along its planes and resampled
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isbi_infer.errors import IsbiError, UsageError
from isbi_infer.model.contract import ROBUST
from isbi_infer.terminal import counted
from isbi_train.config import TrainConfig
from isbi_train.config.stacks import StackEntry
from isbi_train.data.borders import merge_enclosed
from isbi_train.data.labelled import LabelledStack, load_labelled, resampled
from isbi_train.data.sections import check_some, hold_out

PLANES = {
    "xy": (0, 1, 2),
    "xz": (1, 0, 2),
    "yz": (2, 0, 1),
}  # of Z, Y and X, the one across the sections first
_ISOTROPIC = 1.1  # times as deep as wide, or as wide as deep, that a voxel may be


@dataclass(frozen=True, slots=True)
class StoredStack:
    """A stack of a list at the pixel size at which it is stored.

    Attributes
    ----------
    entry : StackEntry
        What the list says of it.
    whole : LabelledStack
        All its sections.
    split : TrainConfig
        Settings that hold out this stack's sections.
    parts : tuple of LabelledStack
        The sections that are trained on, a part for each plane.
    """

    entry: StackEntry
    whole: LabelledStack
    split: TrainConfig
    parts: tuple[LabelledStack, ...]


@dataclass(frozen=True, slots=True)
class TrainingStack:
    """What a run does with one labelled stack.

    Attributes
    ----------
    name : str
        Empty where it is the only one, which needs none.
    parts : tuple of LabelledStack
        The sections that are trained on, a part for each plane.
    held_out : LabelledStack
        The sections that are only validated on.
    weight : float
        How often crops are drawn of it, relative to the other stacks.
    facts : dict
        What a checkpoint holds of it, as plain types.
    stored : StoredStack or None
        Where it is one of a list.
    """

    name: str
    parts: tuple[LabelledStack, ...]
    held_out: LabelledStack
    weight: float
    facts: dict[str, Any]
    stored: StoredStack | None = None

    def line(self) -> str:
        """Return a line for users on which sections train and which validate."""
        count, planes = self.facts["sections"], self.facts["planes"]
        cut = "" if planes == ["xy"] else f", cut along {', '.join(planes)}"
        return (
            f"{self.name}: {counted(sum(map(len, self.parts)), 'section')} train{cut}, "
            f"{self.facts['held_out']} of {count} validate, "
            f"weight {self.weight:g}"
        )


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All that a run trains and validates on.

    Attributes
    ----------
    stacks : tuple of TrainingStack
        At least one.
    facts : dict
        What a checkpoint holds, as plain types: ``sha256``, ``sections``, ``pixel_size_nm``, ``normalisation`` (what
        `isbi_train.training.batches.normalised` does); of a list ``stacks`` too.
    """

    stacks: tuple[TrainingStack, ...]
    facts: dict[str, Any]

    @classmethod
    def of_one(cls, stack: LabelledStack, train: TrainConfig) -> TrainingData:
        """Split a single stack as the settings say; UsageError if they cannot."""
        training, held_out = hold_out(stack, train)
        facts = {
            "sha256": stack.sha256(),
            "sections": len(stack),
            "pixel_size_nm": stack.pixel_size_nm,
            "normalisation": ROBUST,
        }
        return cls((TrainingStack("", (training,), held_out, 1.0, facts),), facts)

    @classmethod
    def of_list(cls, stacks: Sequence[TrainingStack]) -> TrainingData:
        """Put stacks together whose sections have one pixel size."""
        facts = {
            "sha256": {
                kind: hashlib.sha256(
                    "".join(s.facts["sha256"].get(kind, "") for s in stacks).encode()
                ).hexdigest()
                for kind in dict.fromkeys(kind for stack in stacks for kind in stack.facts["sha256"])
            },
            "sections": sum(stack.facts["sections"] for stack in stacks),
            "pixel_size_nm": stacks[0].facts["pixel_size_nm"],
            "normalisation": ROBUST,
            "stacks": [stack.facts for stack in stacks],
        }
        return cls(tuple(stacks), facts)


def read_stacks(
    entries: Sequence[StackEntry], train: TrainConfig, resample_nm: float | None, origin: str
) -> TrainingData:
    """Read the stacks of a list, each at the pixel size to train at.

    Parameters
    ----------
    entries : sequence of StackEntry
        The list.
    train : TrainConfig
        Says how many sections are held out of a stack whose entry does not.
    resample_nm : float or None
        Side of a pixel to train at, in nanometres.
    origin : str
        The list's file, for messages.

    Returns
    -------
    TrainingData

    Raises
    ------
    IsbiError
        Naming the stack, if it is missing or damaged, has no labels or others than its kind, cannot be resampled, or
        has no such sections to hold out.
    UsageError
        If there is no pixel size to train at.
    """
    if resample_nm is None:
        raise UsageError(
            f"{origin}: several stacks are trained at one pixel size; add --resample NM, such as 6"
        )
    found = []
    for entry in entries:
        try:
            found.append(_read(entry, train, resample_nm))
        except IsbiError as error:
            raise type(error)(f"{origin}: stack {entry.name!r}: {error}") from error
    return TrainingData.of_list(found)


def load_entry(entry: StackEntry, train: TrainConfig) -> tuple[LabelledStack, TrainConfig]:
    """Read a stack of a list at its own pixel size.

    Parameters
    ----------
    entry : StackEntry
        Names its files, and what is held out.
    train : TrainConfig
        Says how many sections are held out where the entry does not.

    Returns
    -------
    (LabelledStack, TrainConfig)
        All its sections, and settings that hold out this stack's.

    Raises
    ------
    IsbiError
        See `isbi_train.data.labelled.load_labelled`.
    """
    stack = load_labelled(
        Path(entry.images),
        labels=Path(entry.labels),
        labels_are=entry.kind,
        ignore=entry.ignore,
        pixel_size_nm=entry.pixel_size_nm,
    )
    split = replace(train, hold_out=entry.hold_out, hold_out_start=entry.hold_out_start)
    return stack, split.counted(len(stack))


def _read(entry: StackEntry, train: TrainConfig, resample_nm: float) -> TrainingStack:
    stack, split = load_entry(entry, train)
    _check_isotropic(entry, stack)
    left_out = split.held_out(len(stack))
    volumes, held_out = _split(stack, split, entry)
    cut = [(_cut(volume, plane), plane) for volume in volumes for plane in entry.planes]
    parts = tuple(part.annotated() if plane == "xy" else part for part, plane in cut)
    facts = {
        "name": entry.name,
        "kind": entry.kind,
        "weight": entry.weight,
        "planes": list(entry.planes),
        "sections": len(stack),
        "held_out": f"{left_out.start}:{left_out.stop}",
        "stored_nm": stack.pixel_size_nm,
        "pixel_size_nm": resample_nm,
        "sha256": stack.sha256(),
        "terms": entry.terms,
        "citation": entry.citation,
    }
    if entry.apart > 1:
        facts["apart"] = entry.apart
    if entry.membrane_weight is not None:
        facts["membrane_weight"] = entry.membrane_weight
    if entry.merge_enclosed:
        facts["merge_enclosed"] = True
    return TrainingStack(
        entry.name,
        tuple(resampled(part, resample_nm) for part in parts),
        resampled(held_out, resample_nm),
        entry.weight,
        facts,
        StoredStack(entry, stack, split, parts),
    )


def _check_isotropic(entry: StackEntry, stack: LabelledStack) -> None:
    """Raise UsageError if what an entry asks for needs voxels as deep as wide, and its file has others."""
    asked = "merge_enclosed" if entry.merge_enclosed else f"planes {', '.join(entry.planes)}"
    if entry.planes == ("xy",) and not entry.merge_enclosed:
        return
    if stack.anisotropy and not 1 / _ISOTROPIC <= stack.anisotropy <= _ISOTROPIC:
        raise UsageError(
            f"{entry.images}: its voxels are {stack.anisotropy:.3g} times as deep as wide, but {asked} need a volume "
            "as fine in depth as in its sections; leave that out of the list, or correct the size in the file"
        )


def _split(
    stack: LabelledStack, split: TrainConfig, entry: StackEntry
) -> tuple[list[LabelledStack], LabelledStack]:
    """Return the blocks of sections that are trained on, and those that are held out."""
    if entry.planes == ("xy",):
        training, held_out = hold_out(stack, split)
        blocks = [training]
    else:  # a cut across the sections must not step over those that are held out
        left_out = split.held_out(len(stack))
        held_out = stack[left_out].annotated()
        blocks = [
            block for block in (stack[: left_out.start], stack[left_out.stop :]) if len(block.annotated())
        ]
        check_some(blocks[0] if blocks else stack[:0], held_out, left_out)
    if entry.merge_enclosed:
        blocks = [
            block.with_ids(merge_enclosed(block.ids_ZYX)) for block in blocks if block.ids_ZYX is not None
        ]
    return blocks, held_out


def _cut(stack: LabelledStack, plane: str) -> LabelledStack:
    """Return a volume's sections along a plane, with membranes between the cells that touch there."""
    if plane == "xy":
        return stack
    axes = PLANES[plane]
    cut = replace(
        stack,
        image_ZYX=stack.image_ZYX.transpose(axes),
        places=None,
        cell_ZYX=stack.cell_ZYX.transpose(axes),
        ignored_ZYX=None if stack.ignored_ZYX is None else stack.ignored_ZYX.transpose(axes),
    )
    return cut if stack.ids_ZYX is None else cut.with_ids(stack.ids_ZYX.transpose(axes))
