"""The inputs that every exported file is run on, and what the checkpoint makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from isbi_export.proof.runners import Pixels, SectionsStatistics, module_runner
from isbi_export.seen import gathered, seen_in
from isbi_export.synthetic import synthetic_sections
from isbi_infer.errors import ImageError
from isbi_infer.pixels.normalise import intensity_statistics
from isbi_infer.plan.scaling import Scaling, choose_scaling
from isbi_infer.plan.tiles import Window, plan_section
from isbi_infer.run.tissue import Tissue
from isbi_infer.volumes import open_stack
from isbi_train.data.labels import LabelRule, SectionLabels, section_labels
from isbi_train.evaluation.evaluate import read_sections, section_range, survey_file

SYNTHETIC = 3  # sections
_LONGEST = 1024  # pixels of a section's middle as the network sees it, run at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """One input.

    Attributes
    ----------
    data : {"random", "synthetic", "image"}
        What it is.
    image_NCYX : ndarray, shape (N, C, Y, X)
        Grey values as stored; of a section among the neighbours that the network sees, mirrored by its border and up to
        the stride.
    statistics : tuple of tuples of Statistics
        Of the C sections of each of N.
    expected_NCYX : ndarray of float32, shape (N, 1, Y, X)
        Probabilities by the checkpoint.
    crop : (slice, slice)
        The tissue in its mirrored surroundings.
    tissue : Tissue or None
        Of the section, where it is one.
    labels : SectionLabels or None
        Of the section, where there are some.
    """

    data: str
    image_NCYX: Pixels
    statistics: tuple[SectionsStatistics, ...]
    expected_NCYX: npt.NDArray[np.float32]
    crop: Window
    tissue: Tissue | None
    labels: SectionLabels | None

    def section(self, found_NCYX: Pixels) -> npt.NDArray[np.float32]:
        """Return probabilities in the pixels of the section, 0 where there is no tissue."""
        assert self.tissue is not None
        section_YX: npt.NDArray[np.float32] = self.tissue.whole(found_NCYX[0, 0][self.crop])
        return section_YX


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
    scaling : Scaling or None
        How they are brought to the model's pixel size.
    nodata : float or None
        The value that stands for "no data".
    notes : tuple of str
        What a user must know about the files.
    """

    image_ZYX: Pixels
    labels: tuple[SectionLabels, ...]
    data_sha256: str
    sections: range | tuple[int, ...]
    scaling: Scaling | None = None
    nodata: float | None = None
    notes: tuple[str, ...] = ()


def read_labelled(
    image: Path,
    labels: Path,
    sections: str | None,
    model_nm: float | None,
    rule: LabelRule | None = None,
) -> Labelled:
    """Read sections and their labels.

    Parameters
    ----------
    image, labels : Path
        Greyscale TIFFs of one shape.
    sections : str or None
        Such as "25:30"; None is these of 30 sections, which training holds out, and all of another number.
    model_nm : float or None
        Side of a pixel in the model's training data, to which sections of another size are brought, as in inference.
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
        rule, of_labels = rule or LabelRule(), [f"{labels}: {note}" for note in truth.notes]
        survey = survey_file(truth, rule, chosen)
        if survey.blank:
            chosen = survey.annotated
            of_labels.append(f"{labels}: {survey.note()}")
        digest = hashlib.sha256()
        for section_YX in stack:
            digest.update(np.ascontiguousarray(section_YX).tobytes())
        scaling, notes = choose_scaling(model_nm, None, stack.pixel_size, stored=True)
        factors = (scaling.y, scaling.x) if scaling else (1.0, 1.0)
        sides = zip((stack.height, stack.width), factors, strict=True)
        middle = (slice(None), *(_middle(side, round(_LONGEST / factor)) for side, factor in sides))
        nodata, notes = stack.nodata, (*stack.notes, *notes)
        image_ZYX, label_ZYX = read_sections(stack, chosen)[middle], read_sections(truth, chosen)[middle]
    return Labelled(
        image_ZYX=image_ZYX,
        labels=tuple(section_labels(label_YX, rule) for label_YX in label_ZYX),
        data_sha256=digest.hexdigest(),
        sections=chosen,
        scaling=scaling,
        nodata=nodata,
        notes=(*of_labels, *(f"{image}: {note}" for note in notes)),
    )


def probe_shapes(stride: int, channels: int = 1) -> tuple[tuple[int, int, int, int], ...]:
    """Return the shapes of random inputs: the smallest, odd multiples of the stride, not square, batches of 1 and 3."""
    return (
        (1, channels, stride, stride),
        (1, channels, 3 * stride, 7 * stride),
        (3, channels, 5 * stride, 2 * stride),
        (1, channels, 11 * stride, 11 * stride),
    )


def make_probes(
    network: nn.Module,
    *,
    stride: int,
    border: int,
    channels: int = 1,
    labelled: Labelled | None = None,
    as_bytes: bool = False,
) -> list[Probe]:
    """Run the network of a checkpoint on random inputs, synthetic tissue and the tissue of the user's sections.

    Parameters
    ----------
    network : Module
        As loaded from the checkpoint, with its BatchNorm, in evaluation mode; it returns logits.
    stride, border : int
        Padding, as in `isbi_infer.plan.tiles.plan_section`.
    channels : int
        Sections that the network sees: one in the middle of its neighbours.
    labelled : Labelled, optional
        Sections of the user's.
    as_bytes : bool
        Whether resampled sections are rounded to uint8, for files that take such.

    Returns
    -------
    list of Probe
        Blank sections are left out, as they are never computed.

    Raises
    ------
    ImageError
        If all of the user's sections are blank.
    """
    run = module_runner(nn.Sequential(network, nn.Sigmoid()).eval())
    everything = (slice(None), slice(None))

    def probe(
        data: str, image_NCYX: Pixels, statistics: tuple[SectionsStatistics, ...], **section: Any
    ) -> Probe:
        known = {"crop": everything, "tissue": None, "labels": None} | section
        expected_NCYX = run(image_NCYX, statistics)
        return Probe(
            data=data, image_NCYX=image_NCYX, statistics=statistics, expected_NCYX=expected_NCYX, **known
        )

    probes = []
    for image_NCYX in _random(stride, channels):
        statistics = tuple(tuple(map(intensity_statistics, image_CYX)) for image_CYX in image_NCYX)
        probes.append(probe("random", image_NCYX, statistics))
    image_ZYX, label_ZYX = synthetic_sections(SYNTHETIC)
    drawn = [section_labels(label_YX, LabelRule()) for label_YX in label_ZYX]
    stacks = {
        "synthetic": [
            (Tissue.of(image_YX), labels) for image_YX, labels in zip(image_ZYX, drawn, strict=True)
        ]
    }
    if labelled:
        found = [
            (Tissue.of(image_YX, labelled.scaling, nodata=labelled.nodata, as_bytes=as_bytes), labels)
            for image_YX, labels in zip(labelled.image_ZYX, labelled.labels, strict=True)
        ]
        stacks["image"] = found
        if all(tissue.found.blank for tissue, _ in found):
            raise ImageError("all sections to be scored on are blank; give others with --sections")
    for data, sections in stacks.items():
        seen_of_each = seen_in([tissue for tissue, _ in sections], channels // 2)
        for (tissue, labels), seen in zip(sections, seen_of_each, strict=True):
            if tissue.found.blank:
                continue
            plan = plan_section(tissue.pixels_YX.shape, stride=stride, halo=0, border=border)
            (tile,) = plan.tiles
            padded_CYX, of_seen = gathered(seen, plan, tile)
            section = {"crop": tile.crop, "tissue": tissue, "labels": labels}
            probes.append(probe(data, padded_CYX[None], (of_seen,), **section))
    return probes


def _random(stride: int, channels: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Draw images of different brightness and contrast; the last one of a batch is constant."""
    generator = np.random.Generator(np.random.PCG64(2012))
    for shape in probe_shapes(stride, channels):
        noise_NCYX = generator.standard_normal(shape, dtype=np.float32)
        contrast_N111 = generator.uniform(5, 60, (shape[0], 1, 1, 1))
        contrast_N111[2:] = 0
        grey_NCYX = generator.uniform(80, 170, (shape[0], 1, 1, 1)) + contrast_N111 * noise_NCYX
        yield np.rint(grey_NCYX).clip(0, 255).astype(np.uint8)


def _middle(side: int, longest: int) -> slice:
    start = (side - min(side, longest)) // 2
    return slice(start, start + longest)
