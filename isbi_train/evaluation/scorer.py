"""Scores of what ``isbi-infer --label`` writes, found by it through the entry point ``isbi_infer.scorers``."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError
from isbi_infer.volumes import TiffSource, open_stack
from isbi_train.data.labels import LabelRule, Survey, section_labels
from isbi_train.evaluation.evaluate import headline, pixel_figures, survey_file, without_nan
from isbi_train.scores.error_lines import Mask, error_lines
from isbi_train.scores.inputs import Level, checked_probabilities, doubts, level_of
from isbi_train.scores.metrics import Agreement, above, agreement, pixel_agreement
from isbi_train.scores.thinned import ThinnedScorer, cores

_THRESHOLD = 0.5  # of the scores pixel by pixel


def label_scorer(
    labels: Path,
    shape: tuple[int, ...],
    *,
    membrane: bool,
    labels_are: str = "cells",
    ignore: float | None = None,
) -> LabelScorer:
    """Open and check labels before anything is segmented.

    Parameters
    ----------
    labels : Path
        A TIFF.
    shape : tuple of int
        Of the stack that will be segmented, (Y, X) or (Z, Y, X).
    membrane : bool
        Whether 1 means membrane in what will be scored.
    labels_are : {"cells", "membranes", "ids"}
        What the labels mean, see `isbi_train.data.labels.LabelRule`.
    ignore : float, optional
        Value of labels that marks what nobody knows.

    Returns
    -------
    LabelScorer
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    ImageError
        If the labels cannot be read, have another shape, or are not of this kind.
    UsageError
        If there is no such kind.
    """
    rule = LabelRule.of(labels_are, ignore)
    truth = open_stack(labels)
    try:
        if truth.shape != shape:
            raise ImageError(
                f"{labels}: the labels have shape {truth.shape}, the stack has {shape}; expected the same shape: "
                "give the labels of this very stack"
            )
        survey = survey_file(truth, rule, range(truth.sections))
        return LabelScorer(truth, rule, survey, membrane=membrane)
    except BaseException:
        truth.close()
        raise


class LabelScorer:
    """Scores sections while others are still being computed; the figures are those of the whole stack.

    A section is scored in a thread of its own, as many at once as there are cores; while so many are being scored,
    `add` waits. So memory does not grow with the stack.

    Parameters
    ----------
    truth : TiffSource
        The labels; closed with the scorer.
    rule : LabelRule
        What they mean.
    survey : Survey
        Which of them are annotated; only these are scored.
    membrane : bool
        Whether 1 means membrane in the sections.
    """

    def __init__(self, truth: TiffSource, rule: LabelRule, survey: Survey, *, membrane: bool) -> None:
        self._truth, self._rule, self._survey, self._membrane = truth, rule, survey, membrane
        self._numbers = {z: number for number, z in enumerate(survey.annotated)}
        self._thinned = ThinnedScorer(len(survey.annotated))
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="scorer")
        self._room = threading.Semaphore(cores())
        self._found: dict[int, Future[tuple[Agreement, Level] | None]] = {}
        self._best = _THRESHOLD

    def add(self, z: int, result_YX: npt.NDArray[Any]) -> None:
        """Take a section to be scored; each once, in any order.

        Parameters
        ----------
        z : int
            Its number, from 0.
        result_YX : ndarray of float32 or uint8, shape (Y, X)
            As it is stored: the probability, or round(255 p). It must not be changed afterwards.

        Raises
        ------
        ValueError
            If it is no section of the stack, or was there already.
        """
        shape = self._truth.shape[-2:]
        if not 0 <= z < self._truth.sections or z in self._found or result_YX.shape != shape:
            raise ValueError(
                f"section {z} of shape {result_YX.shape}; expected each of {self._truth.sections} of shape {shape} once"
            )
        self._room.acquire()
        self._found[z] = self._pool.submit(self._score, z, result_YX)
        self._found[z].add_done_callback(lambda _: self._room.release())

    def scores(self) -> dict[str, Any]:
        """Wait for the sections that are still being scored.

        Returns
        -------
        dict
            The scores, their thresholds, ``pixel_error``, ``dice_membrane``, ``dice_cell`` and ``notes`` as plain
            types; None where a score is undefined.

        Raises
        ------
        ImageError
            If a section held no probabilities, or its labels could not be read.
        ValueError
            If a section is missing.
        """
        missing = self._truth.sections - len(self._found)
        if missing:
            raise ValueError(f"{missing} of {self._truth.sections} sections were not added")
        found = [self._found[z].result() for z in range(self._truth.sections)]
        parts = [part for part in found if part is not None]
        notes = tuple(f"{self._truth.path}: {note}" for note in self._truth.notes)
        if self._survey.blank:
            notes += (f"{self._truth.path}: {self._survey.note()}",)
        notes += doubts([level for _, level in parts])
        thinned = self._thinned.scores(notes)
        if not math.isnan(thinned.best_threshold_rand):
            self._best = thinned.best_threshold_rand
        pixels = pixel_agreement([pixel for pixel, _ in parts], _THRESHOLD, notes)
        plain: dict[str, Any] = without_nan(
            {**headline(thinned), **pixel_figures(pixels), "notes": list(thinned.notes)}
        )
        return plain

    def errors(self, z: int, result_YX: npt.NDArray[Any]) -> tuple[Mask, Mask] | None:
        """Find where a section is split and merged, at the best threshold of V_rand; after `scores`.

        Parameters
        ----------
        z : int
            Its number, from 0.
        result_YX : ndarray of float32 or uint8, shape (Y, X)
            As for `add`.

        Returns
        -------
        (bool array, bool array) or None
            Splits and mergers, see `isbi_train.scores.error_lines`; None where nobody annotated the section.
        """
        if z not in self._numbers:
            return None
        cell_YX = section_labels(self._truth.read(z), self._rule).cell_YX
        return error_lines(self._cell_probability(result_YX) > np.float64(self._best), cell_YX)

    def _cell_probability(self, result_YX: npt.NDArray[Any]) -> npt.NDArray[Any]:
        one = result_YX.dtype.type(255 if result_YX.dtype == np.uint8 else 1)
        probability_YX: npt.NDArray[Any] = (one - result_YX if self._membrane else result_YX) / np.float32(
            one
        )
        return probability_YX

    def _score(self, z: int, result_YX: npt.NDArray[Any]) -> tuple[Agreement, Level] | None:
        try:
            proposal_YX, _ = checked_probabilities(self._cell_probability(result_YX))
        except ImageError as error:
            raise ImageError(f"section {z} of the result: {error}") from error
        if z not in self._numbers:
            return None
        labels = section_labels(self._truth.read(z), self._rule)
        cell_YX, counted_YX = labels.cell_YX, None if labels.ignored_YX is None else ~labels.ignored_YX
        self._thinned.add(self._numbers[z], proposal_YX, cell_YX, labels.ids_YX)
        return (
            agreement(above(proposal_YX, _THRESHOLD), cell_YX, counted_YX),
            level_of(proposal_YX, cell_YX, counted_YX),
        )

    def close(self) -> None:
        """End the threads and release the labels."""
        self._pool.shutdown(cancel_futures=True)
        self._truth.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
