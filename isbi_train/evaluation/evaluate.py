"""A prediction, or a model run on its image, against labels: from paths to every score.

::

    stack.tif                        ->  probability_ZYX  -+
    model.onnx, .pth, .pt  +  image  ->  probability_ZYX  -+->  Evaluation
    labels.tif                       ->  label_ZYX        -+
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.model.devices import ProviderName
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes import TiffSource, open_stack
from isbi_train.data.labels import LabelRule, Survey, section_labels, stacked, survey_labels
from isbi_train.evaluation.predict import MODEL_SUFFIXES, predict
from isbi_train.scores.inputs import check_scoring_input
from isbi_train.scores.instances import InstanceScores, instance_scores
from isbi_train.scores.metrics import (
    AdaptedRand,
    PixelScores,
    SplitMergeScores,
    ThinnedScores,
    VariationOfInformation,
    adapted_rand_error,
    expected_calibration_error,
    pixel_scores,
    thinned_scores,
    variation_of_information,
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evaluation:
    """Every score of a prediction, and what a picture of it needs.

    Attributes
    ----------
    prediction, labels : str
        The files.
    sections : range or tuple of int
        The sections scored, as numbered in the files, from 0; no range where some between them are not annotated.
    thinned : ThinnedScores
        The challenge's scores.
    pixels : PixelScores
        Agreement pixel by pixel, at 0.5.
    adapted_rand : AdaptedRand
        Without thinning, at 0.5.
    variation : VariationOfInformation
        Without thinning, at 0.5.
    calibration_error : float
        Expected calibration error, in [0, 1].
    probability_ZYX : float32 or float64 array
        What was scored; 1 = cell.
    cell_ZYX : bool array
        Where the labels say cell.
    image_ZYX : array or None
        The sections a model was run on.
    notes : tuple of str
        What was assumed and done, for the caller to print.
    """

    prediction: str
    labels: str
    sections: range | tuple[int, ...]
    thinned: ThinnedScores
    pixels: PixelScores
    adapted_rand: AdaptedRand
    variation: VariationOfInformation
    calibration_error: float
    probability_ZYX: np.ndarray
    cell_ZYX: np.ndarray
    image_ZYX: np.ndarray | None
    notes: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return all figures as plain types, NaN as None.

        Returns
        -------
        dict
            The entries of ``thresholds`` have the names of the challenge's own program.
        """
        plain: dict[str, Any] = without_nan(
            {
                "prediction": self.prediction,
                "labels": self.labels,
                "sections": sections_named(self.sections),
                **headline(self.thinned),
                **pixel_figures(self.pixels),
                "iou_membrane": self.pixels.iou_membrane,
                "iou_cell": self.pixels.iou_cell,
                "adapted_rand_error": self.adapted_rand.error,
                "adapted_rand_precision": self.adapted_rand.precision,
                "adapted_rand_recall": self.adapted_rand.recall,
                "variation_of_information_splits": self.variation.splits,
                "variation_of_information_mergers": self.variation.mergers,
                "expected_calibration_error": self.calibration_error,
                "thresholds": [self._at(t) for t in range(self.thinned.thresholds.size)],
                "notes": list(self.notes),
            }
        )
        return plain

    def _at(self, t: int) -> dict[str, Any]:
        rand, info = self.thinned.rand, self.thinned.info
        return {
            "threshold": float(self.thinned.thresholds[t]),
            "v_rand": float(rand.mean[t]),
            "v_info": float(info.mean[t]),
            "slices": [
                {
                    "section": section,
                    "v_rand": float(rand.score[t, s]),
                    "rand_precision": float(rand.precision[t, s]),
                    "rand_recall": float(rand.recall[t, s]),
                    "v_info": float(info.score[t, s]),
                    "info_precision": float(info.precision[t, s]),
                    "info_recall": float(info.recall[t, s]),
                    "gt_components": int(self.thinned.segments[t, s]),
                    "proposal_basins": int(self.thinned.basins[t, s]),
                    "thinned_border_pixels": int(self.thinned.line_pixels[t, s]),
                }
                for s, section in enumerate(self.sections)
            ],
        }


def evaluate(
    prediction: Path,
    labels: Path,
    *,
    rule: LabelRule | None = None,
    image: Path | None = None,
    sections: str | slice = ":",
    provider: ProviderName = "auto",
    pixel_size: float | None = None,
    progress: Progress | None = None,
    scored: Progress | None = None,
) -> Evaluation:
    """Score a probability stack, or a model run on an image, against labels.

    Parameters
    ----------
    prediction : Path
        A TIFF with the probability of cell, or a model: ``.onnx`` and ``.pt`` are run by
        :class:`isbi_infer.Segmenter`, ``.pth`` by torch over whole sections, as training validates.
    labels : Path
        A TIFF of the same shape, with labels as `rule` says.
    rule : LabelRule
        What the labels mean; cells when not given. Ids are the segments that splits and mergers are counted of.
    image : Path, optional
        The TIFF to run a model on, at its own pixel size as ``isbi-infer`` does.
    sections : str or slice
        Which sections of both stacks to score, see :func:`section_range`.
    provider : str
        Where to run a model, see :class:`isbi_infer.Segmenter`.
    pixel_size : float, optional
        Side of a pixel of the image in nanometres, where the file does not say or is wrong.
    progress : callable, optional
        As for `isbi_train.evaluation.predict.predict`, where a model is run.
    scored : callable, optional
        Called with the sections scored and their total.

    Returns
    -------
    Evaluation

    Raises
    ------
    UsageError
        If a model comes without an image or a stack with one, or the sections are not there.
    ImageError
        If a stack cannot be read, the shapes differ, or the pair cannot be scored
        (see :func:`isbi_train.scores.inputs.check_scoring_input`).
    ModelError
        If the model cannot be trusted.
    DependencyError
        If a package or the provider is not there.
    """
    stack_path = _stack_path(prediction, image)
    if image is None and pixel_size is not None:
        raise UsageError(f"{prediction}: is not resampled, since it is no model; leave out --pixel-size")
    rule = rule or LabelRule()
    chosen: range | tuple[int, ...]
    with open_stack(stack_path) as stack, open_stack(labels) as truth:
        chosen = section_range(sections, truth.sections)
        _check_same_shape(stack, truth)
        notes = [f"{reader.path}: {note}" for reader in (stack, truth) for note in reader.notes]
        survey = survey_file(truth, rule, chosen)
        if survey.blank:
            chosen = survey.annotated
            notes.append(f"{labels}: {survey.note()}")
        read = [section_labels(truth.read(z), rule) for z in chosen]
        pixels_ZYX = read_sections(stack, chosen)
        if image is None:
            image_ZYX, probability_ZYX = None, pixels_ZYX
        else:
            image_ZYX = pixels_ZYX
            probability_ZYX, how = predict(
                prediction, stack, provider=provider, pixel_size=pixel_size, only=chosen, progress=progress
            )
            notes.extend(note for note in how if note not in stack.notes)
    cell_ZYX = np.stack([each.cell_YX for each in read])
    ids_ZYX = stacked(each.ids_YX for each in read)
    ignored_ZYX = stacked(each.ignored_YX for each in read)
    try:
        pair = check_scoring_input(probability_ZYX, cell_ZYX, ids=ids_ZYX, ignored=ignored_ZYX)
    except ImageError as error:
        raise ImageError(f"{prediction} against {labels}: {error}") from error
    compared = pair.proposal, pair.cell
    return Evaluation(
        prediction=str(prediction),
        labels=str(labels),
        sections=chosen,
        thinned=thinned_scores(*compared, ids=ids_ZYX, ignored=ignored_ZYX, progress=scored),
        pixels=pixel_scores(*compared, ignored=ignored_ZYX),
        adapted_rand=adapted_rand_error(*compared, ids=ids_ZYX, ignored=ignored_ZYX),
        variation=variation_of_information(*compared, ids=ids_ZYX, ignored=ignored_ZYX),
        calibration_error=expected_calibration_error(*compared, ignored=ignored_ZYX),
        probability_ZYX=pair.proposal,
        cell_ZYX=pair.cell,
        image_ZYX=image_ZYX,
        notes=(*notes, *pair.notes),
    )


def evaluate_instances(
    prediction: Path, labels: Path, *, sections: str | slice = ":"
) -> tuple[str, InstanceScores]:
    """Score ids of cells through a stack.

    Parameters
    ----------
    prediction, labels : Path
        TIFFs of integers of one shape, 0 = no id.
    sections : str or slice
        Which sections of both to score together, see :func:`section_range`.

    Returns
    -------
    sections : str
        Those that were scored.
    InstanceScores

    Raises
    ------
    UsageError
        If the sections are not there.
    ImageError
        If a file cannot be read, the shapes differ, or these are no ids.
    """
    with open_stack(prediction) as stack, open_stack(labels) as truth:
        chosen = section_range(sections, truth.sections)
        _check_same_shape(stack, truth)
        found_ZYX, truth_ZYX = read_sections(stack, chosen), read_sections(truth, chosen)
    try:
        return sections_named(chosen), instance_scores(found_ZYX, truth_ZYX)
    except ImageError as error:
        raise ImageError(f"{prediction} against {labels}: {error}") from error


def survey_file(truth: TiffSource, rule: LabelRule, sections: Sequence[int]) -> Survey:
    """Look at the labels of some sections of an open stack; ImageError, naming the file, if they are no labels.

    Parameters
    ----------
    truth : TiffSource
        The labels.
    rule : LabelRule
        What they mean.
    sections : sequence of int
        Which.

    Returns
    -------
    Survey
    """
    try:
        return survey_labels(truth.read, sections, rule)
    except ImageError as error:
        raise error if str(truth.path) in str(error) else ImageError(f"{truth.path}: {error}") from error


def sections_named(sections: Sequence[int]) -> str:
    """Name sections: "25:30", or "25,26,28" where they are no range."""
    if isinstance(sections, range):
        return f"{sections.start}:{sections.stop}"
    return ",".join(map(str, sections))


def section_range(sections: str | slice, count: int) -> range:
    """Read which sections are meant.

    Parameters
    ----------
    sections : str or slice
        "25:30" (25 to 29), "25:", ":5", ":" or one section such as "7", counted from 0.
    count : int
        How many there are.

    Returns
    -------
    range
        Not empty.

    Raises
    ------
    UsageError
        If this is no range, or none of these sections.
    """
    if isinstance(sections, slice):
        if sections.step not in (None, 1):
            raise UsageError(f"sections have the step {sections.step}; expected start:stop")
        first, last = sections.start, sections.stop
    else:
        start, colon, stop = (part.strip() for part in sections.partition(":"))
        if not all(part == "" or part.isdecimal() for part in (start, stop)) or not (start or colon):
            raise UsageError(
                f"sections {sections!r} are no range; expected start:stop counted from 0, such as 25:30, "
                "25: or :5, or one section such as 7"
            )
        first = int(start) if start else None
        last = (int(stop) if stop else None) if colon else int(start) + 1
    found = range(0 if first is None else first, count if last is None else last)
    if not 0 <= found.start < found.stop <= count:
        asked = sections if isinstance(sections, str) else f"{found.start}:{found.stop}"
        raise UsageError(
            f"sections {asked} are not among the {count} of the labels; expected some of 0:{count}"
        )
    return found


def headline(thinned: ThinnedScores) -> dict[str, float]:
    """Return the two scores and their thresholds under the names used everywhere."""
    return {
        "v_rand_thin": thinned.v_rand,
        "v_info_thin": thinned.v_info,
        "best_threshold_rand": thinned.best_threshold_rand,
        "best_threshold_info": thinned.best_threshold_info,
    }


def pixel_figures(pixels: PixelScores) -> dict[str, float]:
    """Return the best known of the pixel scores under the names used everywhere."""
    return {
        "pixel_error": pixels.pixel_error,
        "dice_membrane": pixels.dice_membrane,
        "dice_cell": pixels.dice_cell,
    }


def best_index(scores: SplitMergeScores) -> int:
    """Return which threshold to show: the best one, or 0.5 where no threshold has a score."""
    best = 0.5 if math.isnan(scores.best_threshold) else scores.best_threshold
    return int(np.flatnonzero(scores.thresholds == best)[0])


def _stack_path(prediction: Path, image: Path | None) -> Path:
    if prediction.suffix.lower() not in MODEL_SUFFIXES:
        if image is not None:
            raise UsageError(
                f"{prediction}: taken for a stack of probabilities, since models end in {', '.join(MODEL_SUFFIXES)}; "
                "leave out --image, which is for models"
            )
        return prediction
    if image is None:
        raise UsageError(f"{prediction}: a model needs a stack to be run on; name it with --image")
    return image


def _check_same_shape(stack: TiffSource, truth: TiffSource) -> None:
    if stack.shape != truth.shape:
        raise ImageError(
            f"{stack.path} has shape {stack.shape}, {truth.path} {truth.shape}; expected the same shape: --sections "
            "picks the same sections from both, so bring both to the same sections first"
        )


def read_sections(stack: TiffSource, sections: Sequence[int]) -> npt.NDArray[Any]:
    """Read some sections of an open stack as one array, shape (Z, Y, X)."""
    return np.stack([stack.read(section) for section in sections])


def without_nan(value: Any) -> Any:
    """Return the same plain value with None for every NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
