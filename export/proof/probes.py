"""The inputs that every exported file is run on, and what the checkpoint makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from isbi_export.proof.runners import Pixels, module_runner
from isbi_export.synthetic import synthetic_sections
from isbi_infer.errors import ImageError
from isbi_infer.pixels.normalise import IntensityStatistics, intensity_statistics
from isbi_infer.plan.tiles import Window, plan_section, read_mirrored
from isbi_infer.volumes import open_stack
from isbi_train.data.labels import LabelRule, SectionLabels, section_labels
from isbi_train.evaluation.evaluate import read_sections, section_range, survey_file

SYNTHETIC = 3  # sections
_LONGEST = 1024  # pixels of a section's middle, run at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """One input.

    Attributes
    ----------
    data : {"random", "synthetic", "image"}
        What it is.
    image_NCYX : ndarray, shape (N, 1, Y, X)
        Grey values as stored; of a section, mirrored by its border and up to the stride.
    statistics : tuple of IntensityStatistics
        Of the N sections.
    expected_NCYX : ndarray of float32, shape (N, 1, Y, X)
        Probabilities by the checkpoint.
    crop : (slice, slice)
        The section in its mirrored surroundings.
    labels : SectionLabels or None
        Of the section, where there are some.
    """

    data: str
    image_NCYX: Pixels
    statistics: tuple[IntensityStatistics, ...]
    expected_NCYX: npt.NDArray[np.float32]
    crop: Window
    labels: SectionLabels | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Sections of the user's with labels.

    Attributes
    ----------
    image_ZYX : ndarray, shape (Z, Y, X)
        Grey values as stored, the middle of large sections.
    labels : tuple of SectionLabels
        Of each section.
    data_sha256 : str
        Of the whole stack's grey values.
    sections : range or tuple of int
        Which of the stack's; no range where some between them are not annotated.
    notes : tuple of str
        What a user must know about the files.
    """

    image_ZYX: Pixels
    labels: tuple[SectionLabels, ...]
    data_sha256: str
    sections: range | tuple[int, ...]
    notes: tuple[str, ...] = ()


def read_labelled(image: Path, labels: Path, sections: str | None, rule: LabelRule | None = None) -> Labelled:
    """Read sections and their labels.

    Parameters
    ----------
    image, labels : Path
        Greyscale TIFFs of one shape.
    sections : str or None
        Such as "25:30"; None is these of 30 sections, which training holds out, and all of another number.
    rule : LabelRule, optional
        What the labels mean; cells when not given.

    Raises
    ------
    ImageError
        If a file cannot be read, or they do not fit together.
    UsageError
        If there are no such sections.
    """
    with open_stack(image) as stack, open_stack(labels) as truth:
        if stack.shape != truth.shape:
            raise ImageError(
                f"{labels}: the labels have shape {truth.shape}, the stack has {stack.shape}; expected the same shape: "
                "give the labels of this very stack"
            )
        default = "25:30" if stack.sections == 30 else ":"
        chosen: range | tuple[int, ...] = section_range(sections or default, stack.sections)
        rule, notes = rule or LabelRule(), [f"{labels}: {note}" for note in truth.notes]
        survey = survey_file(truth, rule, chosen)
        if survey.blank:
            chosen = survey.annotated
            notes.append(f"{labels}: {survey.note()}")
        digest = hashlib.sha256()
        for section_YX in stack:
            digest.update(np.ascontiguousarray(section_YX).tobytes())
        middle = (slice(None), *(_middle(side) for side in (stack.height, stack.width)))
        image_ZYX, label_ZYX = read_sections(stack, chosen)[middle], read_sections(truth, chosen)[middle]
    return Labelled(
        image_ZYX=image_ZYX,
        labels=tuple(section_labels(label_YX, rule) for label_YX in label_ZYX),
        data_sha256=digest.hexdigest(),
        sections=chosen,
        notes=tuple(notes),
    )


def probe_shapes(stride: int) -> tuple[tuple[int, int, int, int], ...]:
    """Return the shapes of random inputs: the smallest, odd multiples of the stride, not square, batches of 1 and 3."""
    return (
        (1, 1, stride, stride),
        (1, 1, 3 * stride, 7 * stride),
        (3, 1, 5 * stride, 2 * stride),
        (1, 1, 11 * stride, 11 * stride),
    )


def make_probes(
    network: nn.Module, *, stride: int, border: int, labelled: Labelled | None = None
) -> list[Probe]:
    """Run the network of a checkpoint on random inputs, synthetic tissue and the user's sections.

    Parameters
    ----------
    network : Module
        As loaded from the checkpoint, with its BatchNorm, in evaluation mode; it returns logits.
    stride, border : int
        Padding, as in `isbi_infer.plan.tiles.plan_section`.
    labelled : Labelled, optional
        Sections of the user's.

    Returns
    -------
    list of Probe
    """
    run = module_runner(nn.Sequential(network, nn.Sigmoid()).eval())

    def probe(data: str, image_NCYX: Pixels, whole: list[Pixels], **section: Any) -> Probe:
        statistics = tuple(intensity_statistics(section_YX) for section_YX in whole)
        everything = (slice(None), slice(None))
        return Probe(
            data=data,
            image_NCYX=image_NCYX,
            statistics=statistics,
            expected_NCYX=run(image_NCYX, statistics),
            crop=section.get("crop", everything),
            labels=section.get("labels"),
        )

    probes = [probe("random", image_NCYX, list(image_NCYX[:, 0])) for image_NCYX in _random(stride)]
    synthetic_ZYX, cell_ZYX = synthetic_sections(SYNTHETIC)
    drawn = [section_labels(cell_YX, LabelRule()) for cell_YX in cell_ZYX]
    stacks: list[tuple[str, Pixels, Sequence[SectionLabels]]] = [("synthetic", synthetic_ZYX, drawn)]
    if labelled:
        stacks.append(("image", labelled.image_ZYX, labelled.labels))
    for data, image_ZYX, labels in stacks:
        plan = plan_section(image_ZYX.shape[1:], stride=stride, halo=0, border=border)
        (tile,) = plan.tiles
        for section_YX, of_section in zip(image_ZYX, labels, strict=True):
            padded_NCYX = np.ascontiguousarray(read_mirrored(section_YX, plan.pad, tile.reads))[None, None]
            probes.append(probe(data, padded_NCYX, [section_YX], crop=tile.crop, labels=of_section))
    return probes


def _random(stride: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Draw images of different brightness and contrast; the last one of a batch is constant."""
    generator = np.random.Generator(np.random.PCG64(2012))
    for shape in probe_shapes(stride):
        noise_NCYX = generator.standard_normal(shape, dtype=np.float32)
        contrast_N111 = generator.uniform(5, 60, (shape[0], 1, 1, 1))
        contrast_N111[2:] = 0
        grey_NCYX = generator.uniform(80, 170, (shape[0], 1, 1, 1)) + contrast_N111 * noise_NCYX
        yield np.rint(grey_NCYX).clip(0, 255).astype(np.uint8)


def _middle(side: int) -> slice:
    start = (side - min(side, _LONGEST)) // 2
    return slice(start, start + _LONGEST)
