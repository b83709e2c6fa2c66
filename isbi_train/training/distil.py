"""Distillation: the probabilities of trained models become soft labels for another network."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.segmenter import Segmenter
from isbi_infer.volumes import open_stack
from isbi_train.config import TrainConfig
from isbi_train.config.inputs import Inputs
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.sections import ranges

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """What teachers think, as probabilities of cell interior.

    Attributes
    ----------
    labelled_ZYX : ndarray of float32, shape (Z, Y, X)
        Of the training sections, in order.
    unlabelled_image_ZYX : ndarray, shape (U, Y, X)
        Grey values of sections without labels; U may be 0.
    unlabelled_ZYX : ndarray of float32, shape (U, Y, X)
        Of these.
    """

    labelled_ZYX: npt.NDArray[np.float32]
    unlabelled_image_ZYX: npt.NDArray[np.generic]
    unlabelled_ZYX: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Teaching:
    """Who teaches a run, and on what beside its training sections.

    Attributes
    ----------
    teachers : tuple of Path
        ONNX models.
    unlabelled_image_ZYX : ndarray, shape (U, Y, X)
        Sections without labels; U may be 0.
    sha256 : dict of str to str
        Of the models, "teacher 0" and so on, and of the grey values, "unlabelled".
    """

    teachers: tuple[Path, ...]
    unlabelled_image_ZYX: npt.NDArray[np.generic]
    sha256: dict[str, str]

    @classmethod
    def of(cls, inputs: Inputs, stack: LabelledStack, train: TrainConfig) -> Teaching | None:
        """Open and check what the inputs name; None where they name no teacher.

        Raises
        ------
        UsageError, ModelError, ImageError
            See `check_teachers` and `read_unlabelled`.
        """
        teachers = tuple(Path(teacher) for teacher in inputs.teachers)
        if not teachers and inputs.unlabelled:
            raise UsageError(
                f"{inputs.unlabelled}: unlabelled sections need a teacher to label them; add --teacher"
            )
        if not teachers:
            return None
        digests = check_teachers(teachers, stack, train)
        sha256 = {f"teacher {t}": digest for t, digest in enumerate(digests)}
        image_ZYX = stack.image_ZYX[:0]
        if inputs.unlabelled:
            image_ZYX = read_unlabelled(Path(inputs.unlabelled), stack, train)
            sha256["unlabelled"] = hashlib.sha256(image_ZYX.tobytes()).hexdigest()
        return cls(teachers, image_ZYX, sha256)

    def teach(self, training: LabelledStack) -> SoftLabels:
        """Let the teachers say what they think of the training and the unlabelled sections."""
        return soft_labels(self.teachers, training, self.unlabelled_image_ZYX)


def soft_labels(
    teachers: tuple[Path, ...],
    training: LabelledStack,
    unlabelled_image_ZYX: npt.NDArray[np.generic],
) -> SoftLabels:
    """Run teachers through the path that ships, with test-time augmentation, and average them.

    Parameters
    ----------
    teachers : tuple of Path
        ONNX files exported by ``isbi-export``; see `check_teachers`.
    training : LabelledStack
        The sections that are trained on, and no others.
    unlabelled_image_ZYX : ndarray, shape (U, Y, X)
        See `read_unlabelled`; U may be 0.

    Returns
    -------
    SoftLabels
    """
    images_ZYX = training.image_ZYX
    sums = [np.zeros(stack.shape, np.float64) for stack in (images_ZYX, unlabelled_image_ZYX)]
    for teacher in teachers:
        segmenter = Segmenter(teacher, tta=True)
        log.info("teacher %s on %s", teacher, segmenter.provider)
        for sum_ZYX, stack in zip(sums, (images_ZYX, unlabelled_image_ZYX), strict=True):
            for z, probability_YX in enumerate(segmenter.stream(stack)):
                sum_ZYX[z] += probability_YX
    labelled_ZYX, unlabelled_ZYX = ((total / len(teachers)).astype(np.float32) for total in sums)
    return SoftLabels(labelled_ZYX, unlabelled_image_ZYX, unlabelled_ZYX)


def check_teachers(teachers: tuple[Path, ...], stack: LabelledStack, train: TrainConfig) -> tuple[str, ...]:
    """Refuse teachers that have seen the held-out sections, for what they teach would spoil the scores there.

    Parameters
    ----------
    teachers : tuple of Path
        ONNX files.
    stack : LabelledStack
        All labelled sections.
    train : TrainConfig
        Says which are held out.

    Returns
    -------
    tuple of str
        The files' sha256.

    Raises
    ------
    ModelError
        If a model cannot be trusted.
    UsageError
        If a teacher was trained on sections that are held out here.
    """
    digests = []
    held_out = train.held_out(len(stack))
    images = stack.sha256()["images"] if teachers else ""
    for teacher in teachers:
        segmenter = Segmenter(teacher)
        training = segmenter.contract.provenance.get("training", {})
        seen = str(training.get("sections", ""))
        same = dict(training.get("data_sha256", {})).get("images") == images
        if same and any(r.start < held_out.stop and held_out.start < r.stop for r in ranges(seen)):
            raise UsageError(
                f"{teacher}: was trained on sections {seen} of this stack, so its opinion would leak sections "
                f"{held_out.start}:{held_out.stop}, which are held out; choose another teacher or other sections"
            )
        digests.append(segmenter.model_sha256)
    return tuple(digests)


def read_unlabelled(path: Path, stack: LabelledStack, train: TrainConfig) -> npt.NDArray[np.generic]:
    """Read sections without labels.

    Parameters
    ----------
    path : Path
        A TIFF stack.
    stack : LabelledStack
        All labelled sections.
    train : TrainConfig
        Says which are held out.

    Returns
    -------
    ndarray, shape (U, Y, X)
        Grey values as stored.

    Raises
    ------
    ImageError
        If the file cannot be read, or its sections have another size than the labelled ones.
    UsageError
        If a held-out section is among them.
    """
    with open_stack(path) as sections:
        image_ZYX = np.stack(list(sections))
    if image_ZYX.shape[1:] != stack.image_ZYX.shape[1:]:
        raise ImageError(
            f"{path}: its sections are {image_ZYX.shape[1:]} pixels, the labelled ones "
            f"{stack.image_ZYX.shape[1:]}; they must have one size, so cut or tile them"
        )
    held_out = {section_YX.tobytes() for section_YX in stack.image_ZYX[train.held_out(len(stack))]}
    for z, section_YX in enumerate(image_ZYX):
        if section_YX.astype(stack.image_ZYX.dtype).tobytes() in held_out:
            raise UsageError(
                f"{path}: section {z} is held out for validation and must not be learnt from; leave it out"
            )
    return image_ZYX
