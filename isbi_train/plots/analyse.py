"""A stack segmented and laid out to be sent to the challenge, used section by section, and looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

from isbi_infer.conflicts import check_not_input
from isbi_infer.errors import UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.model.devices import ProviderName
from isbi_infer.report.pictures import evenly
from isbi_infer.report.sheets import ON_SHEET, Pair, draw_contact_sheet
from isbi_infer.segmenter import Segmenter
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes import TiffSource, open_stack, with_side, write_stack
from isbi_train.data.folders import made_folder
from isbi_train.data.section_files import section_paths, split_stack
from isbi_train.evaluation.predict import is_checkpoint_file, predict_sections

SUBMISSION, SECTIONS, CONTACT_SHEET = "submission.tif", "sections", "contact-sheet.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What was written.

    Attributes
    ----------
    submission, contact_sheet : Path
        The stack of probabilities, and the picture.
    sections : list of Path
        Single sections, in order.
    notes : tuple of str
        What a reader of the results must know.
    """

    submission: Path
    sections: list[Path]
    contact_sheet: Path
    notes: tuple[str, ...]


def analyse(
    model: Path,
    stack: Path,
    folder: Path,
    *,
    provider: ProviderName = "auto",
    tta: bool = False,
    pixel_size: float | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Segment a stack into a challenge submission, single sections and a contact sheet.

    Parameters
    ----------
    model : Path
        ``.onnx`` and ``.pt`` are run by :class:`isbi_infer.Segmenter`, the path that ships; ``.pth`` by torch over
        whole sections, as training validates.
    stack : Path
        A greyscale TIFF, at its own pixel size as ``isbi-infer`` takes it.
    folder : Path
        Made where it is missing. An earlier analysis in it is replaced: ``submission.tif`` (float32, 1 = cell, as the
        challenge wants it), ``sections/00.tif`` and so on, ``contact-sheet.png``.
    provider : str
        As for :class:`isbi_infer.Segmenter`; torch knows "auto", "cpu" and "cuda".
    tta : bool
        Average over the eight flips and rotations; not of ``.pth``.
    pixel_size : float, optional
        Side of a pixel of the stack in nanometres, where the file does not say or is wrong.
    progress : callable, optional
        As for `isbi_train.evaluation.predict.predict_sections`.

    Returns
    -------
    Analysis

    Raises
    ------
    ImageError
        If the stack cannot be read whole.
    ModelError
        If the model cannot be trusted.
    UsageError
        If an output is the input, files of others are in the way, `tta` is asked of a checkpoint, or the
        pixel size is invalid.
    OutputError
        If something cannot be written; each file is whole or as it was.
    DependencyError
        If a package or the provider is not there.
    """
    submission, sheet = folder / SUBMISSION, folder / CONTACT_SHEET
    with open_stack(stack) as reader:
        count = reader.sections
    section_paths(folder / SECTIONS, count, overwrite=True)
    for output in (submission, sheet):
        for source in (stack, model):
            check_not_input(output, source)
    with made_folder(folder):
        for output in (submission, sheet):
            check_writable(output)
        notes = _segment(model, stack, submission, provider, tta, pixel_size, progress)
        sections = split_stack(submission, folder / SECTIONS, overwrite=True)
        title = f"{stack.name} by {model.name}: membranes outlined at 0.5, probability of cell beside"
        if count > ON_SHEET:
            title = f"{title}; {ON_SHEET} of {count} sections"
        with open_stack(stack) as images, open_stack(submission) as probabilities:
            pairs = (_pair(images, probabilities, z) for z in evenly(count, ON_SHEET))
            draw_contact_sheet(pairs, (images.shape[-2], images.shape[-1]), sheet, title=title)
    return Analysis(submission=submission, sections=sections, contact_sheet=sheet, notes=notes)


def _segment(
    model: Path,
    stack: Path,
    submission: Path,
    provider: ProviderName,
    tta: bool,
    pixel_size: float | None,
    progress: Progress | None,
) -> tuple[str, ...]:
    if not is_checkpoint_file(model):
        with open_stack(stack) as source:
            pixels = prod(source.shape)
            segmenter = Segmenter(model, provider=provider, tta=tta, pixel_size=pixel_size, pixels=pixels)
            return segmenter.segment_file(source, submission, progress=progress).notes
    if tta:
        raise UsageError(
            f"{model}: a checkpoint is not averaged over flips and rotations; run isbi-export first"
        )
    with open_stack(stack) as source:
        sections, notes = predict_sections(
            model, source, provider=provider, pixel_size=pixel_size, progress=progress
        )
        size = source.info.pixel_size if pixel_size is None else with_side(source.info.pixel_size, pixel_size)
        with replacing(submission) as temporary:
            write_stack(temporary, sections, like=replace(source.info, pixel_size=size), dtype="float32")
    return notes


def _pair(images: TiffSource, probabilities: TiffSource, z: int) -> Pair:
    return z, partial(images.read, z), partial(probabilities.read, z)
