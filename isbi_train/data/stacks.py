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

import numpy as np

from isbi_infer.errors import IsbiError, UsageError
from isbi_infer.model.contract import ROBUST
from isbi_infer.terminal import counted
from isbi_train.config import TrainConfig
from isbi_train.config.stacks import StackEntry
from isbi_train.data.borders import merge_enclosed
from isbi_train.data.checks import SeenSections, check_apart, check_learnable
from isbi_train.data.labelled import LabelledStack, load_labelled, lost_sections, resampled
from isbi_train.data.resample import resampled_shape
from isbi_train.data.sections import check_some, hold_out

PLANES = {
    "xy": (0, 1, 2),
    "xz": (1, 0, 2),
    "yz": (2, 0, 1),
}  # of Z, Y and X, the one across the sections first
_ISOTROPIC = 1.1  # times as deep as wide, or as wide as deep, that a voxel may be
_THINNEST = 0.25  # of a crop's side, that a cut must be thick: beyond it a crop shows its mirror image


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
    planes : tuple of {"xy", "xz", "yz"}
        The plane of each part.
    seen : SeenSections
        What of its sections is trained on and what is held out, by their grey values.
    """

    entry: StackEntry
    whole: LabelledStack
    split: TrainConfig
    parts: tuple[LabelledStack, ...]
    planes: tuple[str, ...]
    seen: SeenSections


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
    uncut : str
        Which sections are not cut across, since they are too thin for that; empty where all are that shall be.
    """

    name: str
    parts: tuple[LabelledStack, ...]
    held_out: LabelledStack
    weight: float
    facts: dict[str, Any]
    stored: StoredStack | None = None
    uncut: str = ""

    def line(self) -> str:
        """Return a line for users on which sections train and which validate."""
        count, planes = self.facts["sections"], self.facts["planes"]
        cut = "" if planes == ["xy"] else f", cut along {', '.join(planes)}"
        if self.uncut:
            cut += f" (but not across {self.uncut})"
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
        """Split a single stack as the settings say.

        Raises
        ------
        UsageError
            If they cannot split it, a section that is held out is trained on too, or they leave nothing to learn.
        ImageError
            If there is nothing to learn, see `check_learnable`.
        """
        training, held_out = hold_out(stack, train)
        check_apart({"": SeenSections.of(stack, train.held_out(len(stack)))})
        check_learnable([training], train, "what is trained on")
        facts = {
            "sha256": stack.sha256(),
            "sections": len(stack),
            "pixel_size_nm": stack.pixel_size_nm,
            "normalisation": ROBUST,
        }
        return cls((TrainingStack("", (training,), held_out, 1.0, facts),), facts)

    @classmethod
    def of_list(cls, stacks: Sequence[TrainingStack]) -> TrainingData:
        """Put stacks together whose sections have one pixel size; UsageError as `check_apart`."""
        check_apart({stack.name: stack.stored.seen for stack in stacks if stack.stored})
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
        Naming the stack, if it is missing or damaged, has no labels or others than its kind, cannot be resampled, has
        no such sections to hold out, or nothing to learn.
    UsageError
        If there is no pixel size to train at, or a section that a stack holds out is trained on too.
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
    try:
        return TrainingData.of_list(found)
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from error


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
    found: list[tuple[str, LabelledStack, LabelledStack]] = []
    notes, uncut, dropped = list(stack.notes), [], list[int]()
    for volume in volumes:
        thickness = _thickness(volume, resample_nm)
        planes = entry.planes
        if thickness < _THINNEST * train.crop:
            planes = tuple(plane for plane in planes if plane == "xy")
        if planes != entry.planes:
            first, last = volume.numbers[[0, -1]]
            uncut.append(f"sections {first}:{last + 1}, {counted(thickness, 'pixel')} thick")
            if not planes:
                uncut[-1] += " and so left out"
                dropped += volume.numbers.tolist()
        for plane in planes:
            part = _cut(volume, plane)
            if plane == "xy":
                found.append((plane, *_annotated_at(part, resample_nm, entry, notes)))
            else:
                found.append((plane, part, resampled(part, resample_nm)))
    too_thin = (
        f"{' and '.join(uncut)}, where a quarter of a crop is {_THINNEST * train.crop:g}" if uncut else ""
    )
    if not found:
        raise UsageError(
            f"cuts along {', '.join(entry.planes)} are too thin at {resample_nm:g} nm: {too_thin}; add xy to planes, "
            "or train with smaller crops"
        )
    _, held_out = _annotated_at(held_out, resample_nm, entry, notes)
    parts = tuple(at_size for _, _, at_size in found)
    check_learnable(parts, train, "what is trained on")
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
    if uncut:
        facts["uncut"] = "; ".join(uncut)
    return TrainingStack(
        entry.name,
        parts,
        replace(held_out, notes=tuple(notes)),
        entry.weight,
        facts,
        StoredStack(
            entry,
            stack,
            split,
            tuple(part for _, part, _ in found),
            tuple(plane for plane, _, _ in found),
            SeenSections.of(stack, left_out, dropped),
        ),
        too_thin,
    )


def _thickness(volume: LabelledStack, resample_nm: float) -> int:
    """Return how many pixels a cut across a volume's sections is thick, at the pixel size to train at."""
    shape = resampled_shape((len(volume), volume.image_ZYX.shape[2]), volume.pixel_size_nm, resample_nm)
    return shape[0] if shape else len(volume)


def _annotated_at(
    part: LabelledStack, resample_nm: float, entry: StackEntry, notes: list[str]
) -> tuple[LabelledStack, LabelledStack]:
    """Return the sections of which something is known at another pixel size, as stored and there; note the others."""
    part = part.annotated()
    at_size = resampled(part, resample_nm)
    if at_size.known_Z.all():
        return part, at_size
    notes += lost_sections(Path(entry.labels), part, at_size)
    return part[np.flatnonzero(at_size.known_Z)], at_size.annotated()


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
        return [_merged(block) for block in blocks], _merged(held_out)
    return blocks, held_out


def _merged(stack: LabelledStack) -> LabelledStack:
    """Give ids within one other id that other one, as far as sections that follow each other show it."""
    assert stack.ids_ZYX is not None
    return stack.with_ids(np.concatenate([merge_enclosed(stack.ids_ZYX[run]) for run in stack.runs]))


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
