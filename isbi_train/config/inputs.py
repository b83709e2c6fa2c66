"""The files that a training run reads, and how they are known again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from isbi_infer.errors import UsageError
from isbi_train.config.flags import flag

LabelKind = Literal["cell", "membrane", "instances"]
RELEASED = "released"  # what may be written for the default model's name
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
KINDS: Mapping[str, LabelKind] = {"cells": "cell", "membranes": "membrane", "ids": "instances"}
LabelKindName = Literal[
    "cells", "membranes", "ids", "cell", "membrane", "instances"
]  # as a user may write it


def label_kind(name: str) -> LabelKind:
    """Return the kind of labels that a user named, in the plural or not; UsageError if there is none of the name."""
    for kind in LABEL_KINDS:
        if name == kind or KINDS.get(name) == kind:
            return kind
    raise UsageError(f"labels are {name!r}; expected {', '.join(KINDS)}")


def located(model: str, folder: Path) -> str:
    """Return a released model's name as it is, and a file that is named from a folder by its whole path."""
    path = folder / model
    named = not path.suffix and len(Path(model).parts) == 1 and not path.exists()
    return model if named else str(path.absolute())


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run reads.

    Attributes
    ----------
    data : str
        Folder or file of the labelled stack, see `isbi_train.data.labelled.load_labelled`.
    labels : str
        File of its labels, where they do not lie in the folder; empty otherwise.
    labels_are : {"cell", "membrane", "instances"}
        What they mean; "cells", "membranes" and "ids" are the same.
    ignore : float or None
        Value of labels that marks what nobody knows: it is left out of losses and scores.
    pixel_size_nm : float or None
        Of the stack, where its file does not say.
    resample_nm : float or None
        Pixel size to train at; None takes the stack's.
    stacks : str
        TOML file that lists several labelled stacks, instead of `data`; see `isbi_train.config.stacks`.
    leave_out : tuple of str
        Names of stacks in that list that are left out.
    init : str
        Weights to start from: "released", the name of a released model, or a file; empty for fresh ones.
    teachers : tuple of str
        Models whose probabilities are learnt: ONNX files, or names of released models.
    unlabelled : str
        TIFF stack that only they label; empty for none.
    sha256 : dict of str to str
        What the contents must be: ``images`` and ``labels`` (the pixels that are trained on), ``init``,
        ``unlabelled``, ``teacher 0`` and so on. Names that are absent are not compared.
    """

    data: str = flag(
        "", "Folder with train-volume.tif and train-labels.tif (255 = cell), or a stack.", path=True
    )
    labels: str = flag("", "The labels of a stack.", path=True)
    labels_are: str = flag(
        "cell", "What labels above 0 mean; cells when not given.", choices=(*LABEL_KINDS, *KINDS)
    )
    ignore: float | None = flag(None, "Value of labels that is left out of the loss and the scores.")
    pixel_size_nm: float | None = flag(
        None, "Pixel size of the stack in nm, where it does not say.", name="--pixel-size"
    )
    resample_nm: float | None = flag(None, "Pixel size to train at, in nm.", name="--resample")
    stacks: str = flag("", "TOML file that lists several labelled stacks, instead of --data.", path=True)
    leave_out: tuple[str, ...] = flag((), "Name of a stack of the list to leave out; repeatable.")
    init: str = flag(
        "",
        "Start from these weights: fine-tuning. A file, released, or a released model's name.",
        released=True,
    )
    teachers: tuple[str, ...] = flag(
        (),
        "Model to learn from: an ONNX file, or a released model's name; repeatable.",
        name="--teacher",
        released=True,
    )
    unlabelled: str = flag("", "TIFF stack that only the teachers label.", path=True)
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels_are not in (*KINDS, *LABEL_KINDS):
            raise UsageError(f"labels_are {self.labels_are!r} is not one of {', '.join(KINDS)}")
        object.__setattr__(self, "labels_are", label_kind(self.labels_are))

    def check_sha256(self, found: Mapping[str, str]) -> None:
        """Raise UsageError where the settings name other contents than were found."""
        differing = sorted(name for name in self.sha256 if self.sha256[name] != found.get(name))
        if differing:
            raise UsageError(
                f"other contents than the settings say (sha256 of {', '.join(differing)}); give the files of that "
                "run, or take [inputs.sha256] out of the settings"
            )
