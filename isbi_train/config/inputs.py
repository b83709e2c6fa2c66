"""The files that a training run reads, and how they are known again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from isbi_infer.errors import UsageError
from isbi_train.config.flags import flag

LabelKind = Literal["cell", "membrane", "instances"]
RELEASED = "released"  # what may be written for the default model's name
LABEL_KINDS: tuple[str, ...] = get_args(LabelKind)


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
        What they mean.
    pixel_size_nm : float or None
        Of the stack, where its file does not say.
    resample_nm : float or None
        Pixel size to train at; None takes the stack's.
    init : str
        Weights to start from: "released", the name of a released model, or a file; empty for fresh ones.
    teachers : tuple of str
        ONNX models whose probabilities are learnt.
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
    labels_are: str = flag("cell", "What labels above 0 mean; cell when not given.", choices=LABEL_KINDS)
    pixel_size_nm: float | None = flag(
        None, "Pixel size of the stack in nm, where it does not say.", name="--pixel-size"
    )
    resample_nm: float | None = flag(None, "Pixel size to train at, in nm.", name="--resample")
    init: str = flag(
        "",
        "Start from these weights: fine-tuning. A file, released, or a released model's name.",
        released=True,
    )
    teachers: tuple[str, ...] = flag((), "ONNX model to learn from; repeatable.", name="--teacher", path=True)
    unlabelled: str = flag("", "TIFF stack that only the teachers label.", path=True)
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels_are not in LABEL_KINDS:
            raise UsageError(f"labels_are {self.labels_are!r} is not one of {', '.join(LABEL_KINDS)}")

    def check_sha256(self, found: Mapping[str, str]) -> None:
        """Raise UsageError where the settings name other contents than were found."""
        differing = sorted(name for name in self.sha256 if self.sha256[name] != found.get(name))
        if differing:
            raise UsageError(
                f"other contents than the settings say (sha256 of {', '.join(differing)}); give the files of that "
                "run, or take [inputs.sha256] out of the settings"
            )
