"""Scores of ids: of labels as they are, section by section, and of neurons through the stack."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError
from isbi_train.scores.inputs import optional_module, pieces_of


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceScores:
    """Agreement of ids in three dimensions, as scikit-image defines it.

    Pixels that the labels give no id do not count. Pixels without an id in the proposal are one segment more.

    Attributes
    ----------
    error : float
        Adapted Rand error, in [0, 1].
    precision, recall : float
        Of pairs of pixels: precision falls with mergers, recall with splits.
    splits, mergers : float
        Variation of information, in bits: of the proposal given the truth, and of the truth given the proposal.
    found, truth : int
        Numbers of ids.
    """

    error: float
    precision: float
    recall: float
    splits: float
    mergers: float
    found: int
    truth: int


def instance_scores(found_ZYX: npt.NDArray[np.integer], truth_ZYX: npt.NDArray[np.integer]) -> InstanceScores:
    """Score ids of a whole stack.

    Parameters
    ----------
    found_ZYX, truth_ZYX : arrays of integers, of one shape
        0 is no id.

    Returns
    -------
    InstanceScores

    Raises
    ------
    ImageError
        If shapes differ, these are no integers or below 0, or the truth holds no id.
    DependencyError
        If scikit-image is not installed.
    """
    if found_ZYX.shape != truth_ZYX.shape:
        raise ImageError(
            f"ids have shape {found_ZYX.shape}, labels {truth_ZYX.shape}; expected the same shape"
        )
    for name, ids in (("ids", found_ZYX), ("labels", truth_ZYX)):
        _check_ids(name, ids)
    if not truth_ZYX.any():
        raise ImageError("the labels hold no id; expected some above 0")
    metrics = optional_module("skimage.metrics")
    # scikit-image counts in tables as large as the largest id
    found, truth = (np.unique(ids, return_inverse=True) for ids in (found_ZYX, truth_ZYX))
    ids_of, truth_of = (
        index.reshape(found_ZYX.shape) + int(values[0] > 0) for values, index in (found, truth)
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where no two pixels share an id
        error, recall, precision = metrics.adapted_rand_error(truth_of, ids_of)
    splits, mergers = metrics.variation_of_information(truth_of, ids_of, ignore_labels=(0,))
    return InstanceScores(
        error=float(error),
        precision=float(precision),
        recall=float(recall),
        splits=abs(float(splits)),
        mergers=abs(float(mergers)),
        found=int(np.count_nonzero(found[0])),
        truth=int(np.count_nonzero(truth[0])),
    )


def label_scores(
    labels_ZYX: npt.NDArray[np.integer],
    cell_ZYX: npt.NDArray[np.bool_],
    ids_ZYX: npt.NDArray[np.integer] | None = None,
) -> tuple[float, float]:
    """Return V_rand and V_info of labels as they are, pixels of 0 being the lines between cells.

    For the segments that `isbi_infer.neurons` makes at a threshold these are the challenge's scores of the
    probabilities at that threshold.

    Parameters
    ----------
    labels_ZYX : array of integers
        Ids, 0 = line.
    cell_ZYX : bool array of this shape
        Where the labels say cell.
    ids_ZYX : array of integers of this shape, optional
        Whose pieces in a section are the truth's segments, in place of the components of `cell_ZYX`.

    Returns
    -------
    v_rand, v_info : float
        Means over the sections; NaN if one has no cell in its labels.

    Raises
    ------
    ImageError
        If ids are no integers, or below 0.
    """
    from isbi_infer.neurons.kernels import compiling
    from isbi_infer.neurons.thinning import LINE, id_runs, segment_runs
    from isbi_train.scores.overlap import overlap_scores

    _check_ids("labels", labels_ZYX)
    if ids_ZYX is not None:
        _check_ids("ids", ids_ZYX)
    scores = np.empty((len(cell_ZYX), 6), np.float64)
    with compiling():
        for z, labels_YX in enumerate(labels_ZYX):
            cell_YX = np.ascontiguousarray(cell_ZYX[z], np.uint8)
            runs = segment_runs(cell_YX) if ids_ZYX is None else id_runs(pieces_of(ids_ZYX[z]))
            values, index = np.unique(labels_YX, return_inverse=True)
            dense_YX = index.reshape(labels_YX.shape) + int(values[0] > 0)
            framed = np.pad(np.where(dense_YX.T > 0, dense_YX.T, LINE), 1, constant_values=LINE)
            overlap_scores(framed.ravel().astype(np.int32), int(dense_YX.max()), *runs, scores[z])
    rand, info = (math.fsum(scores[:, column]) / len(scores) for column in (2, 5))
    return rand, info


def _check_ids(name: str, ids: npt.NDArray[np.integer]) -> None:
    if ids.dtype.kind not in "ui":
        raise ImageError(f"{name} are {ids.dtype}; expected integers, a number for each cell")
    lowest = int(ids.min(initial=0))
    if lowest < 0:
        raise ImageError(f"{name} go down to {lowest}; expected ids from 1 and 0 = background")
