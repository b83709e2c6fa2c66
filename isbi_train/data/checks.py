"""What a run refuses before its first step: held-out sections that it trains on, and sections that teach nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_train.config import TrainConfig
from isbi_train.data.borders import learnt_labels
from isbi_train.data.labelled import LabelledStack, named_sections
from isbi_train.data.tissue import section_digests, shows_tissue


@dataclass(frozen=True, slots=True)
class SeenSections:
    """The sections of a stack that a run trains on and those that it holds out, known by their grey values as stored.

    Attributes
    ----------
    trained, held_out : dict of str to int
        Numbers of the sections by their digests, see `isbi_train.data.tissue.section_digests`. What shows nothing, and
        what nobody annotated, is in neither.
    image_ZYX : ndarray, shape (Z, Y, X)
        All sections of the stack.
    """

    trained: dict[str, int]
    held_out: dict[str, int]
    image_ZYX: npt.NDArray[np.generic] = field(repr=False)

    @classmethod
    def of(cls, stack: LabelledStack, held_out: slice, dropped: Collection[int] = ()) -> SeenSections:
        """Look at all sections of a stack, but for those that are neither trained on nor held out."""
        left_out = range(len(stack))[held_out]
        found = zip(section_digests(stack.image_ZYX), stack.known_Z, range(len(stack)), strict=True)
        known = [(digest, z) for digest, is_known, z in found if digest and is_known and z not in dropped]
        return cls(
            {digest: z for digest, z in reversed(known) if z not in left_out},
            {digest: z for digest, z in reversed(known) if z in left_out},
            stack.image_ZYX,
        )


def check_apart(stacks: Mapping[str, SeenSections]) -> None:
    """Refuse sections that are held out of one stack, and trained on in the same or another one.

    Parameters
    ----------
    stacks : mapping of str to SeenSections
        By their names, of which a single stack has an empty one.

    Raises
    ------
    UsageError
        Naming stacks and sections.
    """
    for name, holds_out in stacks.items():
        for other, trains_on in stacks.items():
            common = sorted(
                (z, digest)
                for digest, z in holds_out.held_out.items()
                if digest in trains_on.trained and shows_tissue(holds_out.image_ZYX[z])
            )
            if not common:
                continue
            here = named_sections(z for z, _ in common)
            there = named_sections(trains_on.trained[digest] for _, digest in common)
            if name == other:
                named = f"stack {name!r}: " if name else ""
                raise UsageError(
                    f"{named}{here} (from 0), held out for validation, and {there}, trained on, are the same images; "
                    "hold out both, or neither (with --folds, cut it into another number of folds)"
                )
            raise UsageError(
                f"stack {name!r} holds out {here} (from 0), and stack {other!r} trains on the same images as its "
                f"{there}; hold out the same sections of both, or leave one of the stacks out"
            )


def check_learnable(parts: Iterable[LabelledStack], train: TrainConfig, called: str) -> None:
    """Refuse sections of which nothing is learnt, or measured: both classes must be left of what the loss counts.

    Parameters
    ----------
    parts : iterable of LabelledStack
        The sections, at the pixel size to train at. Some may show one class alone; all together must show both.
    train : TrainConfig
        Draws membranes and leaves out what is beside them, see `isbi_train.data.borders.learnt_labels`.
    called : str
        What a message calls them, such as "what is held out".

    Raises
    ------
    ImageError
        If they show no tissue, or their labels one class only.
    UsageError
        If a setting leaves one class only, or nothing; the message names it.
    """
    parts = list(parts)
    if not _lacking(parts, train):
        return
    as_read = replace(train, membrane_width_nm=0.0, ignore_band_nm=0.0)
    lacking = _lacking(parts, as_read)
    if len(lacking) > 1:
        raise ImageError(f"{called} shows no tissue with labels; choose other sections")
    if lacking:
        raise ImageError(
            f"the labels of {called} hold no {lacking[0]} at all where there is tissue; expected both cell and "
            "membrane, since nothing is learnt of one"
        )
    without_band = _lacking(parts, replace(train, ignore_band_nm=0.0))
    setting = "membrane_width_nm" if without_band else "ignore_band_nm"
    raise UsageError(
        f"train.{setting}={getattr(train, setting):g} leaves no pixel of "
        f"{' and none of '.join(without_band or _lacking(parts, train))} in {called}; give less"
    )


def _lacking(parts: Iterable[LabelledStack], train: TrainConfig) -> list[str]:
    """Return which of the two classes no pixel has that counts in the loss; looks no further than to both."""
    lacking = ["cell", "membrane"]
    for part in parts:
        for z in range(len(part)):
            learnt = learnt_labels(part[z : z + 1], train)
            counted_ZYX = np.True_ if learnt.ignored_ZYX is None else ~learnt.ignored_ZYX
            shown = {"cell": learnt.cell_ZYX & counted_ZYX, "membrane": ~learnt.cell_ZYX & counted_ZYX}
            lacking = [name for name in lacking if not shown[name].any()]
            if not lacking:
                return []
    return lacking
