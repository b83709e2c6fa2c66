"""Scores of a prediction against labels; NumPy in, numbers out.

Everywhere 1 = cell and 0 = membrane, and a pixel is cell where its probability, in double precision, is
strictly above the threshold. :func:`thinned_scores` gives the challenge's own figures; the others are what
other projects report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from isbi_infer.errors import UsageError
from isbi_train.scores.inputs import ScoringInput, check_scoring_input, optional_module, pieces_of
from isbi_train.scores.thinned import THRESHOLDS, SplitMergeScores, ThinnedScores, thinned_scores

__all__ = [
    "THRESHOLDS",
    "AdaptedRand",
    "PixelScores",
    "SplitMergeScores",
    "ThinnedScores",
    "VariationOfInformation",
    "adapted_rand_error",
    "expected_calibration_error",
    "pixel_scores",
    "thinned_scores",
    "variation_of_information",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelScores:
    """Agreement pixel by pixel, all sections together.

    Attributes
    ----------
    threshold : float
        Above it a pixel is cell.
    pixel_error : float
        Fraction of pixels of the wrong class, in [0, 1].
    dice_membrane, dice_cell : float
        Dice coefficient of each class, in [0, 1]; 1 where the class occurs on neither side.
    iou_membrane, iou_cell : float
        Intersection over union of each class, in [0, 1]; 1 where the class occurs on neither side.
    notes : tuple of str
        What was assumed about the input.
    """

    threshold: float
    pixel_error: float
    dice_membrane: float
    dice_cell: float
    iou_membrane: float
    iou_cell: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedRand:
    """Adapted Rand error without thinning, mean over sections.

    Attributes
    ----------
    error : float
        1 - F-score of precision and recall, in [0, 1].
    precision : float
        Falls with mergers.
    recall : float
        Falls with splits.
    notes : tuple of str
        What was assumed about the input.
    """

    error: float
    precision: float
    recall: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariationOfInformation:
    """Variation of information without thinning, mean over sections, in bits.

    Attributes
    ----------
    splits : float
        H(proposal | truth), 0 where no segment is split.
    mergers : float
        H(truth | proposal), 0 where no segments are merged.
    notes : tuple of str
        What was assumed about the input.
    """

    splits: float
    mergers: float
    notes: tuple[str, ...]

    @property
    def total(self) -> float:
        """Sum of both, the distance between the segmentations."""
        return self.splits + self.mergers


def pixel_scores(
    probabilities: ArrayLike,
    labels: ArrayLike,
    threshold: float = 0.5,
    *,
    ignored: ArrayLike | None = None,
) -> PixelScores:
    """Compare pixel by pixel at one threshold.

    Parameters
    ----------
    probabilities : array, shape (rows, columns) or (sections, rows, columns)
        Probability of cell, as for :func:`thinned_scores`.
    labels : array of the same shape
        Above zero = cell, zero = membrane.
    threshold : float
        In [0, 1].
    ignored : bool array, same shape, optional
        True where nobody knows: such pixels do not count.

    Returns
    -------
    PixelScores
        Pixel error, and Dice and IoU of both classes. Membrane is the rarer and the harder one.

    Raises
    ------
    ImageError
        If the pair cannot be scored: see :func:`isbi_train.scores.inputs.check_scoring_input`.
    UsageError
        If the threshold lies outside [0, 1].
    """
    pair, found = _segmented(probabilities, labels, threshold, None, ignored)
    return pixel_agreement([agreement(found, pair.cell, pair.counted)], threshold, pair.notes)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Numbers of pixels that a segmentation and the labels both call cell or membrane, and of all."""

    both_cell: int
    both_membrane: int
    pixels: int


def agreement(found: np.ndarray, truth: np.ndarray, counted: np.ndarray | None = None) -> Agreement:
    """Count where two bool arrays of one shape, True = cell, agree; only where `counted`, if given, is True."""
    if counted is not None:
        found, truth = found[counted], truth[counted]
    both_cell = int(np.count_nonzero(found & truth))
    return Agreement(both_cell, int(np.count_nonzero(~(found | truth))), truth.size)


def pixel_agreement(sections: Sequence[Agreement], threshold: float, notes: tuple[str, ...]) -> PixelScores:
    """Return the scores of all sections together.

    Parameters
    ----------
    sections : sequence of Agreement
        Of parts of a stack that do not overlap.
    threshold : float
        At which they were segmented.
    notes : tuple of str
        What was assumed about the input.

    Returns
    -------
    PixelScores
    """
    both_cell = sum(part.both_cell for part in sections)
    both_membrane = sum(part.both_membrane for part in sections)
    pixels = sum(part.pixels for part in sections)
    wrong = pixels - both_cell - both_membrane
    return PixelScores(
        threshold=threshold,
        pixel_error=wrong / pixels,
        dice_membrane=_ratio(2 * both_membrane, 2 * both_membrane + wrong),
        dice_cell=_ratio(2 * both_cell, 2 * both_cell + wrong),
        iou_membrane=_ratio(both_membrane, both_membrane + wrong),
        iou_cell=_ratio(both_cell, both_cell + wrong),
        notes=notes,
    )


def adapted_rand_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    threshold: float = 0.5,
    *,
    ids: ArrayLike | None = None,
    ignored: ArrayLike | None = None,
) -> AdaptedRand:
    """Adapted Rand error of the 4-connected components, as scikit-image defines it.

    Pixels that the labels call membrane do not count. Membrane of the proposal is one segment more.

    Parameters
    ----------
    probabilities, labels, threshold
        As for :func:`pixel_scores`.
    ids, ignored
        As for :func:`thinned_scores`.

    Returns
    -------
    AdaptedRand
        Means over the sections; NaN if a section has no cell in its labels.

    Raises
    ------
    ImageError, UsageError
        As for :func:`pixel_scores`.
    DependencyError
        If scikit-image is not installed.
    """
    pair, found = _segmented(probabilities, labels, threshold, ids, ignored)
    metrics = optional_module("skimage.metrics")
    rows = []
    for truth_YX, found_YX in zip(_segments(pair), _components(found), strict=True):
        if not truth_YX.any():
            rows.append((math.nan, math.nan, math.nan))
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            # scikit-image calls precision what divides by the pairs of the truth, which is recall
            error, recall, precision = metrics.adapted_rand_error(truth_YX, found_YX)
        rows.append((float(error), float(precision), float(recall)))
    error, precision, recall = _means(rows)
    return AdaptedRand(error=error, precision=precision, recall=recall, notes=pair.notes)


def variation_of_information(
    probabilities: ArrayLike,
    labels: ArrayLike,
    threshold: float = 0.5,
    *,
    ids: ArrayLike | None = None,
    ignored: ArrayLike | None = None,
) -> VariationOfInformation:
    """Variation of information of the 4-connected components, as scikit-image defines it.

    Pixels that the labels call membrane do not count. Membrane of the proposal is one segment more.

    Parameters
    ----------
    probabilities, labels, threshold
        As for :func:`pixel_scores`.
    ids, ignored
        As for :func:`thinned_scores`.

    Returns
    -------
    VariationOfInformation
        Means over the sections, in bits; NaN if a section has no cell in its labels.

    Raises
    ------
    ImageError, UsageError
        As for :func:`pixel_scores`.
    DependencyError
        If scikit-image is not installed.

    References
    ----------
    Meilă 2007, Journal of Multivariate Analysis 98:873-895.
    """
    pair, found = _segmented(probabilities, labels, threshold, ids, ignored)
    metrics = optional_module("skimage.metrics")
    rows = []
    for truth_YX, found_YX in zip(_segments(pair), _components(found), strict=True):
        if not truth_YX.any():
            rows.append((math.nan, math.nan))
            continue
        splits, mergers = metrics.variation_of_information(truth_YX, found_YX, ignore_labels=(0,))
        rows.append((abs(float(splits)), abs(float(mergers))))
    splits, mergers = _means(rows)
    return VariationOfInformation(splits=splits, mergers=mergers, notes=pair.notes)


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15, *, ignored: ArrayLike | None = None
) -> float:
    """Mean distance between the probability of cell and how often it is cell.

    Pixels are put into equal bins of their probability of cell; the distance between mean probability and
    fraction of cell in each bin is weighted by the bin's pixels. 8-bit probabilities are divided by 255.

    Parameters
    ----------
    probabilities, labels, ignored
        As for :func:`pixel_scores`.
    bins : int
        At least 1.

    Returns
    -------
    float
        In [0, 1]; 0 is calibrated.

    Raises
    ------
    ImageError
        As for :func:`pixel_scores`.
    UsageError
        If ``bins`` is below 1.

    References
    ----------
    Naeini et al. 2015, Obtaining well calibrated probabilities using Bayesian binning, AAAI 29.
    """
    if bins < 1:
        raise UsageError(f"bins is {bins}; expected at least 1")
    pair = check_scoring_input(probabilities, labels, ignored=ignored)
    every = slice(None) if pair.counted is None else pair.counted.ravel()
    p = pair.proposal.ravel()[every].astype(np.float64)
    index = np.minimum((p * bins).astype(np.intp), bins - 1)
    surplus = np.bincount(index, weights=p - pair.cell.ravel()[every], minlength=bins)
    return math.fsum(np.abs(surplus)) / p.size


def _segmented(
    probabilities: ArrayLike,
    labels: ArrayLike,
    threshold: float,
    ids: ArrayLike | None,
    ignored: ArrayLike | None,
) -> tuple[ScoringInput, np.ndarray]:
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold is {threshold}; expected a number in [0, 1]")
    pair = check_scoring_input(probabilities, labels, ids=ids, ignored=ignored)
    return pair, above(pair.proposal, threshold)


def above(proposal: np.ndarray, threshold: float) -> np.ndarray:
    """Return where probabilities are cell at a threshold."""
    # a Python float would be rounded to the array's float32
    return np.asarray(proposal > np.float64(threshold))


def _segments(pair: ScoringInput) -> list[np.ndarray]:
    """Return the ground truth's segments of each section, 0 = none."""
    if pair.ids is None:
        return _components(pair.cell)
    return [pieces_of(ids_YX) for ids_YX in pair.ids]


def _components(cell_ZYX: np.ndarray) -> list[np.ndarray]:
    label = optional_module("skimage.measure").label
    return [label(cell_YX, connectivity=1) for cell_YX in cell_ZYX]


def _means(rows: Sequence[tuple[float, ...]]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
