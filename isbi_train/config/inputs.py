"""The files that a training run reads, and how they are known again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from isbi_infer.errors import UsageError

LABEL_KINDS = ("cell", "membrane", "instances")


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
        Weights to start from; empty for fresh ones.
    teachers : tuple of str
        ONNX models whose probabilities are learnt.
    unlabelled : str
        TIFF stack that only they label; empty for none.
    sha256 : dict of str to str
        What the contents must be: ``images`` and ``labels`` (the pixels that are trained on), ``init``,
        ``unlabelled``, ``teacher 0`` and so on. Names that are absent are not compared.
    """

    data: str = ""
    labels: str = ""
    labels_are: str = "cell"
    pixel_size_nm: float | None = None
    resample_nm: float | None = None
    init: str = ""
    teachers: tuple[str, ...] = ()
    unlabelled: str = ""
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
