"""Scores of what ``isbi-infer --label`` writes, found by it through the entry point ``isbi_infer.scorers``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from isbi_infer.errors import ImageError
from isbi_infer.volumes import open_stack
from isbi_train.evaluation.evaluate import headline, named_pair, pixel_figures, read_sections, without_nan
from isbi_train.scores.metrics import pixel_scores, thinned_scores


def label_scorer(labels: Path, shape: tuple[int, ...]) -> Callable[..., dict[str, Any]]:
    """Read and check labels before anything is segmented.

    Parameters
    ----------
    labels : Path
        A TIFF; above zero = cell, zero = membrane.
    shape : tuple of int
        Of the stack that will be segmented, (Y, X) or (Z, Y, X).

    Returns
    -------
    callable
        ``score(path, membrane=...)``: from the stack written, float32 or 8 bits, of the probability of membrane or
        of cell, to the scores, ``pixel_error``, ``dice_membrane``, ``dice_cell`` and ``notes`` as plain types.

    Raises
    ------
    ImageError
        If the labels cannot be read, have another shape or are mostly membrane.
    """
    with open_stack(labels) as truth:
        if truth.shape != shape:
            raise ImageError(
                f"{labels}: the labels have shape {truth.shape}, the stack has {shape}; expected the same shape: "
                "give the labels of this very stack"
            )
        label_ZYX = read_sections(truth, range(truth.sections))
    named_pair(label_ZYX > 0, label_ZYX, str(labels))

    def score(prediction: Path, *, membrane: bool) -> dict[str, Any]:
        with open_stack(prediction) as stack:
            found_ZYX = read_sections(stack, range(stack.sections))
        one = found_ZYX.dtype.type(255 if found_ZYX.dtype == np.uint8 else 1)
        cell_ZYX = (one - found_ZYX if membrane else found_ZYX) / np.float32(one)
        pair = named_pair(cell_ZYX, label_ZYX, f"{prediction} against {labels}")
        thinned, pixels = thinned_scores(pair.proposal, pair.cell), pixel_scores(pair.proposal, pair.cell)
        notes = list(dict.fromkeys((*pair.notes, *thinned.notes)))
        plain: dict[str, Any] = without_nan({**headline(thinned), **pixel_figures(pixels), "notes": notes})
        return plain

    return score
