"""V_rand and V_info after border thinning, the scores of the ISBI 2012 challenge.

::

    probabilities > t  ->  basins  ->  membrane thinned to lines  ->  overlap with the ground truth
       11 thresholds       4-connected    first-in first-out flood       per section
                                                                 ->  mean over sections, best threshold

Source: Arganda-Carreras et al. 2015, Crowdsourcing the creation of image segmentation algorithms for
connectomics, Frontiers in Neuroanatomy 9:142.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from isbi_infer.errors import UsageError
from isbi_infer.terminal.progress import Progress
from isbi_train.scores.inputs import check_scoring_input, optional_module, pieces_of


def _thresholds() -> tuple[float, ...]:
    # accumulated as the challenge does: the last ones are 0.7999999999999999, 0.8999999999999999, ...
    found, threshold = [], 0.0
    while threshold <= 1.0:
        found.append(threshold)
        threshold += 0.1
    return tuple(found)


THRESHOLDS = _thresholds()


@dataclass(frozen=True, slots=True, eq=False)
class SplitMergeScores:
    """One of the two scores, per threshold and section, mergers and splits told apart.

    Attributes
    ----------
    thresholds : float64 array, shape (thresholds,)
        A pixel is cell where its probability is above the threshold.
    precision : float64 array, shape (thresholds, sections)
        Falls with mergers.
    recall : float64 array, shape (thresholds, sections)
        Falls with splits.
    score : float64 array, shape (thresholds, sections)
        Harmonic mean of both. NaN where undefined.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    score: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Score, mean over the sections.

        Returns
        -------
        float64 array, shape (thresholds,)
            The same for every order of the sections; NaN where a section's score is NaN.
        """
        return np.array([math.fsum(row) / row.size for row in self.score])

    @property
    def best(self) -> float:
        """The largest mean; NaN if every threshold's mean is NaN.

        Returns
        -------
        float
            In [0, 1] up to rounding.
        """
        return max((mean for mean in self.mean.tolist() if not math.isnan(mean)), default=math.nan)

    @property
    def best_threshold(self) -> float:
        """The lowest threshold with the largest mean; NaN if there is none.

        Returns
        -------
        float
            One of ``thresholds``.
        """
        best = self.best
        pairs = zip(self.thresholds.tolist(), self.mean.tolist(), strict=True)
        return next((threshold for threshold, mean in pairs if mean == best), math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class ThinnedScores:
    """The challenge's scores of a stack.

    Attributes
    ----------
    rand, info : SplitMergeScores
        The foreground-restricted Rand and information scores, ``scores.rand.precision[t, s]``. Where a single
        basin holds the whole ground truth, the information score is 0, and its precision and recall are
        (1, 0) or (0, 1) by the last bit of a sum.
    segments : int64 array, shape (thresholds, sections)
        Components of the ground truth, the same at every threshold.
    basins : int64 array, shape (thresholds, sections)
        Components of the proposal; a section without cell is one basin.
    line_pixels : int64 array, shape (thresholds, sections)
        Pixels left as border between basins, all over the section.
    notes : tuple of str
        What was assumed about the input, for the caller to print.
    """

    rand: SplitMergeScores
    info: SplitMergeScores
    segments: np.ndarray
    basins: np.ndarray
    line_pixels: np.ndarray
    notes: tuple[str, ...]

    @property
    def thresholds(self) -> np.ndarray:
        """The thresholds, first axis of every array.

        Returns
        -------
        float64 array, shape (thresholds,)
            Ascending.
        """
        return self.rand.thresholds

    @property
    def v_rand(self) -> float:
        """V_rand, the best over thresholds of the mean over sections."""
        return self.rand.best

    @property
    def v_info(self) -> float:
        """V_info, the best over thresholds of the mean over sections."""
        return self.info.best

    @property
    def best_threshold_rand(self) -> float:
        """The threshold of ``v_rand``."""
        return self.rand.best_threshold

    @property
    def best_threshold_info(self) -> float:
        """The threshold of ``v_info``."""
        return self.info.best_threshold


def thinned_scores(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    ids: ArrayLike | None = None,
    ignored: ArrayLike | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ThinnedScores:
    """Score a stack as the ISBI 2012 challenge does.

    Parameters
    ----------
    probabilities : array, shape (rows, columns) or (sections, rows, columns)
        Probability of cell: float16, float32 or float64 in [0, 1]; uint8 is divided by 255, bool is 0 and 1.
    labels : array of the same shape
        Above zero = cell, zero = membrane.
    ids : array of integers, same shape, optional
        Ids of cells, 0 = none: their pieces in a section are the segments to compare with, in place of the components
        of `labels`, so that cells that touch are two.
    ignored : bool array, same shape, optional
        True where nobody knows: such pixels belong to no segment of the ground truth.
    workers : int, optional
        Sections scored at the same time. By default one for each core this process may use; 1 starts no
        thread. The result is the same for any number.
    progress : callable, optional
        Called with the sections scored and their total.

    Returns
    -------
    ThinnedScores
        Scores and counts per threshold and section, and the best means.

    Raises
    ------
    ImageError
        If the pair cannot be scored: see :func:`isbi_train.scores.inputs.check_scoring_input`.
    UsageError
        If ``workers`` is below 1.
    DependencyError
        If numba is not installed.

    Notes
    -----
    Sections are scored one by one, in two dimensions. A section without any cell in its labels has no score:
    NaN, and so is the mean of the stack.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; expected at least 1, or None for one per core")
    pair = check_scoring_input(probabilities, labels, ids=ids, ignored=ignored)
    sections = len(pair.cell)
    ids_of = [None] * sections if pair.ids is None else list(pair.ids)
    scorer = ThinnedScorer(sections)
    threads = min(sections, cores() if workers is None else workers)
    work = range(sections), pair.proposal, pair.cell, ids_of
    if progress:
        progress(0, sections)
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        for z, _ in enumerate(pool.map(scorer.add, *work) if pool else map(scorer.add, *work), start=1):
            if progress:
                progress(z, sections)
    return scorer.scores(pair.notes)


class ThinnedScorer:
    """The challenge's scores of a stack that comes section by section; see `thinned_scores`.

    Parameters
    ----------
    sections : int
        How many there will be.

    Raises
    ------
    DependencyError
        If numba is not installed.
    """

    def __init__(self, sections: int) -> None:
        optional_module("numba")
        self._scores = np.empty((sections, len(THRESHOLDS), 6), np.float64)
        self._counts = np.empty((sections, len(THRESHOLDS), 3), np.int64)
        self._blank = np.zeros(sections, np.bool_)

    def add(
        self, z: int, proposal_YX: np.ndarray, cell_YX: np.ndarray, ids_YX: np.ndarray | None = None
    ) -> None:
        """Score a section; several threads may score different ones at the same time.

        Parameters
        ----------
        z : int
            Its number, from 0.
        proposal_YX : float32 or float64 array
            Probability of cell, in [0, 1].
        cell_YX : bool array of the same shape
            Where the labels say cell.
        ids_YX : array of integers, same shape, optional
            Ids of cells, 0 = none: their pieces are the segments, in place of the components of `cell_YX`.
        """
        from isbi_infer.neurons.kernels import compiling

        with compiling():
            _score_section(proposal_YX, cell_YX, ids_YX, self._scores[z], self._counts[z])
        self._blank[z] = not (cell_YX if ids_YX is None else ids_YX).any()

    def scores(self, notes: tuple[str, ...] = ()) -> ThinnedScores:
        """Return the scores, after all sections were added.

        Parameters
        ----------
        notes : tuple of str
            What was assumed about the input.

        Returns
        -------
        ThinnedScores
        """
        thresholds = np.array(THRESHOLDS)
        rand = SplitMergeScores(_fixed(thresholds), *(_fixed(self._scores[..., k].T) for k in (0, 1, 2)))
        info = SplitMergeScores(rand.thresholds, *(_fixed(self._scores[..., k].T) for k in (3, 4, 5)))
        if self._blank.any():
            blank = ", ".join(map(str, np.flatnonzero(self._blank)))
            notes += (f"no cell in the labels of section {blank} (from 0): no score, and no mean",)
        segments, basins, line_pixels = (_fixed(self._counts[..., k].T) for k in (0, 1, 2))
        return ThinnedScores(rand, info, segments, basins, line_pixels, notes)


def _score_section(
    proposal_YX: np.ndarray,
    cell_YX: np.ndarray,
    ids_YX: np.ndarray | None,
    scores: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Fill one section's rows of the scores, shape (thresholds, 6), and counts, shape (thresholds, 3)."""
    from isbi_infer.neurons.thinning import LINE, flood, id_runs, levels, segment_runs
    from isbi_train.scores.overlap import overlap_scores

    rows, columns = cell_YX.shape
    start, stop, first = (
        segment_runs(np.ascontiguousarray(cell_YX, np.uint8))
        if ids_YX is None
        else id_runs(pieces_of(ids_YX))
    )
    level_XY = levels(np.ascontiguousarray(proposal_YX.T), np.array(THRESHOLDS))
    occurs = np.bincount(level_XY.ravel(), minlength=len(THRESHOLDS) + 1) > 0
    labels = np.full((columns + 2) * (rows + 2), LINE, np.int32)
    parent = np.empty(columns * rows // 2 + 2, np.int32)
    queue = np.empty(columns * rows, np.int32)
    for t in range(len(THRESHOLDS)):
        if t > 0 and not occurs[t]:  # the same cells as at the threshold before
            scores[t], counts[t] = scores[t - 1], counts[t - 1]
            continue
        basins, line_pixels = flood(level_XY, t, labels, parent, queue)
        overlap_scores(labels, basins, start, stop, first, scores[t])
        counts[t] = len(first) - 1, basins, line_pixels


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fixed(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
