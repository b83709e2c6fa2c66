"""Distillation: the probabilities of trained models become soft labels for another network."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, IsbiError, ModelError, UsageError
from isbi_infer.model.opening import find_released
from isbi_infer.segmenter import Segmenter
from isbi_infer.terminal.progress import Display
from isbi_infer.volumes import PixelSize
from isbi_train.config import TrainConfig
from isbi_train.config.inputs import Inputs
from isbi_train.data.arrays import ArraySource
from isbi_train.data.labelled import LabelledStack, read_volume, side_nm
from isbi_train.data.resample import resample_images, resampled_shape
from isbi_train.data.sections import ranges
from isbi_train.data.stacks import TrainingData
from isbi_train.data.tissue import section_digests
from isbi_train.networks.origins import Origin, origins_of_files
from isbi_train.networks.seen import SeenStack, once, seen_by_contract

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

    def at_the_size_of(self, training: LabelledStack) -> SoftLabels:
        """Bring them to the size of the sections that are trained on, as images are.

        Parameters
        ----------
        training : LabelledStack
            The same sections, maybe resampled.
        """
        shape: tuple[int, int] = training.image_ZYX.shape[1:]
        if shape == self.labelled_ZYX.shape[1:]:
            return self
        return SoftLabels(
            resample_images(self.labelled_ZYX, shape).clip(0, 1),
            resample_images(self.unlabelled_image_ZYX, shape),
            resample_images(self.unlabelled_ZYX, shape).clip(0, 1),
        )


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
    origins : tuple of Origin
        Under whose terms the teachers come.
    seen : tuple of SeenStack
        What they have seen in training, by themselves or through what they grew from.
    """

    teachers: tuple[Path, ...]
    unlabelled_image_ZYX: npt.NDArray[np.generic]
    sha256: dict[str, str]
    origins: tuple[Origin, ...]
    seen: tuple[SeenStack, ...]

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        stack: LabelledStack,
        train: TrainConfig,
        others: Mapping[str, tuple[LabelledStack, TrainConfig]] = MappingProxyType({}),
    ) -> Teaching | None:
        """Open and check what the inputs name; None where they name no teacher.

        Parameters
        ----------
        inputs : Inputs
            Names teachers and unlabelled sections.
        stack : LabelledStack
            All labelled sections that are taught.
        train : TrainConfig
            Says which of them are held out.
        others : mapping of str to (LabelledStack, TrainConfig)
            Likewise of the other stacks of a list, by what to call them; what they hold out is not learnt from either.

        Raises
        ------
        UsageError, ModelError, ImageError
            See `check_teachers` and `read_unlabelled`.
        """
        teachers = tuple(map(_file_of, inputs.teachers))
        if not teachers and inputs.unlabelled:
            raise UsageError(
                f"{inputs.unlabelled}: unlabelled sections need a teacher to label them; add --teacher"
            )
        if not teachers:
            return None
        digests, seen = check_teachers(teachers, {"this stack": (stack, train), **others})
        sha256 = {f"teacher {t}": digest for t, digest in enumerate(digests)}
        image_ZYX = stack.image_ZYX[:0]
        if inputs.unlabelled:
            image_ZYX = read_unlabelled(
                Path(inputs.unlabelled), stack, train, inputs.pixel_size_nm, inputs.resample_nm, others
            )
            sha256["unlabelled"] = hashlib.sha256(image_ZYX.tobytes()).hexdigest()
        return cls(teachers, image_ZYX, sha256, origins_of_files(teachers), seen)

    @classmethod
    def of_list(cls, data: TrainingData) -> dict[str, Teaching]:
        """Open and check the teachers of a list's stacks, by the names of the stacks that have some.

        No teacher may have seen what any stack holds out, and no unlabelled section may be one of these.

        Raises
        ------
        UsageError, ModelError, ImageError
            Naming the stack; see `check_teachers` and `read_unlabelled`.
        """
        stored = {stack.name: stack.stored for stack in data.stacks if stack.stored}
        found = {}
        for name, one in stored.items():
            inputs = Inputs(
                teachers=one.entry.teachers,
                unlabelled=one.entry.unlabelled,
                pixel_size_nm=one.whole.pixel_size_nm,
            )
            others = {
                f"stack {other!r}": (stored[other].whole, stored[other].split)
                for other in stored
                if other != name
            }
            try:
                teaching = cls.of(inputs, one.whole, one.split, others)
            except IsbiError as error:
                raise type(error)(f"stack {name!r}: {error}") from error
            if teaching:
                found[name] = teaching
        return found

    def without_unlabelled(self) -> Teaching:
        """Return the same teachers for labelled sections alone."""
        return replace(self, unlabelled_image_ZYX=self.unlabelled_image_ZYX[:0])

    def teach(self, training: LabelledStack, display: Display | None = None) -> SoftLabels:
        """Let the teachers say what they think of the training and the unlabelled sections."""
        return soft_labels(self.teachers, training, self.unlabelled_image_ZYX, display)


def teach(
    data: TrainingData, teachings: Mapping[str, Teaching], display: Display | None = None
) -> dict[str, list[SoftLabels]]:
    """Let the teachers of every stack say what they think, those of a list at the pixel size at which it is stored.

    Parameters
    ----------
    data : TrainingData
        What a run is trained on.
    teachings : mapping of str to Teaching
        By the name of the stack.
    display : Display, optional
        Told of the tiles that are done.

    Returns
    -------
    dict of str to list of SoftLabels
        By the name of the stack, of each of its parts, at the size of these; unlabelled sections go with the first that
        is cut as they are, along xy.
    """
    found: dict[str, list[SoftLabels]] = {}
    for stack in data.stacks:
        teaching = teachings.get(stack.name)
        if teaching is None:
            continue
        found[stack.name] = []
        as_stored = stack.stored.parts if stack.stored else stack.parts
        first = stack.stored.planes.index("xy") if stack.stored and len(teaching.unlabelled_image_ZYX) else 0
        for number, (seen, training) in enumerate(zip(as_stored, stack.parts, strict=True)):
            teaches = teaching if number == first else teaching.without_unlabelled()
            found[stack.name].append(teaches.teach(seen, display).at_the_size_of(training))
    return found


def soft_labels(
    teachers: tuple[Path, ...],
    training: LabelledStack,
    unlabelled_image_ZYX: npt.NDArray[np.generic],
    display: Display | None = None,
) -> SoftLabels:
    """Run teachers through the path that ships, with test-time augmentation, and average them.

    Sections of another pixel size than a teacher's are resampled for it and its probabilities back, as ``isbi-infer``
    does with a file that says this size.

    Parameters
    ----------
    teachers : tuple of Path
        ONNX files exported by ``isbi-export``; see `check_teachers`.
    training : LabelledStack
        The sections that are trained on, and no others.
    unlabelled_image_ZYX : ndarray, shape (U, Y, X)
        See `read_unlabelled`; U may be 0.
    display : Display, optional
        Told of the tiles that are done.

    Returns
    -------
    SoftLabels
    """
    display = display or Display()
    images_ZYX = training.image_ZYX
    side_nm = training.pixel_size_nm
    size = PixelSize(y_nm=side_nm, x_nm=side_nm) if side_nm else None
    sums = [np.zeros(stack.shape, np.float64) for stack in (images_ZYX, unlabelled_image_ZYX)]
    for teacher in teachers:
        segmenter = Segmenter(teacher, tta=True)
        log.info("teacher %s on %s", teacher, segmenter.provider)
        display.stage(f"{teacher.name} teaches: tile")
        for sum_ZYX, stack_ZYX in zip(sums, (images_ZYX, unlabelled_image_ZYX), strict=True):
            if not len(stack_ZYX):
                continue
            runs = training.runs if stack_ZYX is images_ZYX else [slice(0, len(stack_ZYX))]
            if not segmenter.contract.neighbours:
                runs = [slice(0, len(stack_ZYX))]
            for note in segmenter.plan_source(ArraySource(stack_ZYX, pixel_size=size)).notes:
                log.info("teacher %s: %s", teacher, note)
            for run in runs:
                source = ArraySource(stack_ZYX[run], pixel_size=size)
                for z, probability_YX in enumerate(segmenter.stream_source(source, progress=display)):
                    sum_ZYX[run.start + z] += probability_YX
    labelled_ZYX, unlabelled_ZYX = ((total / len(teachers)).astype(np.float32) for total in sums)
    return SoftLabels(labelled_ZYX, unlabelled_image_ZYX, unlabelled_ZYX)


def _file_of(teacher: str) -> Path:
    """Return a teacher's file, that of a released model for its name; UsageError where there is none of the name."""
    released = find_released(teacher)
    return released.path if released else Path(teacher)


def check_teachers(
    teachers: tuple[Path, ...], stacks: Mapping[str, tuple[LabelledStack, TrainConfig]]
) -> tuple[tuple[str, ...], tuple[SeenStack, ...]]:
    """Refuse teachers that have seen the held-out sections, for what they teach would spoil the scores there.

    Parameters
    ----------
    teachers : tuple of Path
        ONNX files.
    stacks : mapping of str to (LabelledStack, TrainConfig)
        What a message calls a stack, all its labelled sections, and what says which are held out.

    Returns
    -------
    tuple of str
        The files' sha256.
    tuple of SeenStack
        What the teachers have seen, by themselves or through what they grew from.

    Raises
    ------
    ModelError
        If a model cannot be trusted.
    UsageError
        If a teacher has seen sections that are held out here.
    """
    digests, found = [], list[SeenStack]()
    for teacher in teachers:
        segmenter = Segmenter(teacher)
        try:
            seen = seen_by_contract(segmenter.contract.provenance.get("training", {}))
        except ModelError as error:
            raise ModelError(f"{teacher}: {error}") from error
        found += seen
        for part, (name, (stack, train)) in product(seen, stacks.items()):
            held_out = train.held_out(len(stack))
            if sections_seen(part.data_sha256, part.sections, stack, held_out):
                raise UsageError(
                    f"{teacher}: has seen sections {part.sections} of {name} in training, so its opinion would leak "
                    f"sections {held_out.start}:{held_out.stop}, which are held out; choose another one or others"
                )
        digests.append(segmenter.model_sha256)
    return tuple(digests), once(found)


def sections_seen(data_sha256: Any, sections: str, stack: LabelledStack, held_out: slice) -> bool:
    """Return whether a model was trained on sections of a stack that are held out.

    Parameters
    ----------
    data_sha256 : mapping or None
        Of the data that it was trained on.
    sections : str
        Which of them it was trained on, such as "0:25".
    stack : LabelledStack
        All labelled sections.
    held_out : slice
        Of the stack.

    Returns
    -------
    bool
    """
    same = dict(data_sha256 or {}).get("images") == stack.sha256()["images"]
    return same and any(r.start < held_out.stop and held_out.start < r.stop for r in ranges(sections))


def read_unlabelled(
    path: Path,
    stack: LabelledStack,
    train: TrainConfig,
    pixel_size_nm: float | None = None,
    resample_nm: float | None = None,
    others: Mapping[str, tuple[LabelledStack, TrainConfig]] = MappingProxyType({}),
) -> npt.NDArray[np.generic]:
    """Read sections without labels, at the pixel size of the labelled ones.

    Parameters
    ----------
    path : Path
        A TIFF stack.
    stack : LabelledStack
        All labelled sections.
    train : TrainConfig
        Says which are held out.
    pixel_size_nm : float, optional
        Side of a pixel in nanometres, where the file does not say it.
    resample_nm : float, optional
        Pixel size to train at, where the labelled sections were brought to one.
    others : mapping of str to (LabelledStack, TrainConfig)
        The other stacks of a list, as stored, by what to call them, and what says which of their sections are held out.

    Returns
    -------
    ndarray, shape (U, Y, X)
        Grey values as stored; float32 where they were resampled.

    Raises
    ------
    ImageError
        If the file cannot be read, or its sections have another size than the labelled ones.
    UsageError
        If a section that any stack holds out is among them, or they must be resampled and their pixel size is not
        known.
    """
    image_ZYX, size, _ = read_volume(path)
    as_stored = section_digests(image_ZYX)
    from_nm = side_nm(path, size) or pixel_size_nm
    to_nm = stack.pixel_size_nm
    if to_nm is not None and (from_nm is not None or resample_nm is not None):
        try:
            shape = resampled_shape(image_ZYX.shape[1:], from_nm, to_nm)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        if shape is not None:
            image_ZYX = resample_images(image_ZYX, shape)
    if image_ZYX.shape[1:] != stack.image_ZYX.shape[1:]:
        raise ImageError(
            f"{path}: its sections are {image_ZYX.shape[1:]} pixels, the labelled ones "
            f"{stack.image_ZYX.shape[1:]}; they must have one size, so cut or tile them"
        )
    # Another stack is as stored; this one may have been resampled, as the unlabelled sections are then.
    known_as = list(zip(as_stored, section_digests(image_ZYX), strict=True))
    for name, (labelled, config) in {"": (stack, train), **others}.items():
        held_out = set(section_digests(labelled.image_ZYX[config.held_out(len(labelled))]))
        for z, digests in enumerate(known_as):
            if held_out.intersection(filter(None, digests)):
                whose = f" of {name}" if name else ""
                raise UsageError(
                    f"{path}: section {z} is held out for validation{whose} and must not be learnt from; leave it out"
                )
    return image_ZYX


def digests_of(teachings: Mapping[str, Teaching]) -> dict[str, str]:
    """Return the sha256 of all that teaches, by the name of the stack and what it is, as a checkpoint holds them."""
    return {
        f"{name} {what}".strip(): sha256
        for name, teaching in teachings.items()
        for what, sha256 in teaching.sha256.items()
    }
