"""The command that scores a result against a labels layer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from napari import Viewer
from napari.layers import Image, Labels
from napari.utils.notifications import show_info, show_warning

from isbi_infer.errors import ImageError, IsbiError
from isbi_infer.napari.layers import RESULT
from isbi_infer.scoring import open_scorer, summary
from isbi_infer.terminal.labels import LabelsAre
from isbi_infer.volumes import StackInfo, write_stack

SCORES = "scores"  # in the metadata of a labels layer that was scored against


def score_against_labels(viewer: Viewer) -> dict[str, Any] | None:
    """Score the probabilities in a viewer against the labels layer that is selected, and show the figures.

    Parameters
    ----------
    viewer : napari.Viewer
        Of several results, the one that is selected with the labels is scored, and otherwise the newest.

    Returns
    -------
    dict or None
        As of `isbi_infer.scoring.Scorer`; None where there was nothing to score, which is said.
    """
    try:
        labels = _labels_of(viewer)
        found = scores_of(labels, _result_for(viewer, labels))
    except IsbiError as error:
        show_warning(f"isbi-infer: {error}")
        return None
    labels.metadata = {**labels.metadata, RESULT: {**labels.metadata.get(RESULT, {}), SCORES: found}}
    show_info("\n".join((f"against {labels.name}:", summary(found), *found.get("notes", []))))
    return found


def labels_are(labels_ZYX: npt.NDArray[Any]) -> LabelsAre:
    """Return what labels mark: ids where there are several values beside 0, else cells."""
    return "ids" if len(np.unique(labels_ZYX)) > 2 else "cells"


def scores_of(labels: Any, result: Any) -> dict[str, Any]:
    """Score a layer of probabilities of cell against a layer of labels.

    Parameters
    ----------
    labels, result : Layer
        Of one shape.

    Returns
    -------
    dict
        See `isbi_infer.scoring.Scorer`.

    Raises
    ------
    ImageError
        If the labels are not those of the result, or of one class only.
    DependencyError
        If the ``scores`` extra is not installed.
    """
    labels_ZYX, result_ZYX = np.asarray(labels.data), np.asarray(result.data)
    if labels_ZYX.shape != result_ZYX.shape:
        raise ImageError(
            f"layer {labels.name!r} is {labels_ZYX.shape}, the result {result.name!r} is {result_ZYX.shape}; expected "
            "the labels of this very stack"
        )
    stored_ZYX = labels_ZYX.astype(np.uint16 if labels_ZYX.max(initial=0) < 2**16 else np.uint32)
    with tempfile.TemporaryDirectory(prefix="isbi-infer-") as folder:
        path = Path(folder) / "labels.tif"
        sections = stored_ZYX if stored_ZYX.ndim == 3 else stored_ZYX[None]
        write_stack(path, sections, like=StackInfo(shape=stored_ZYX.shape), dtype=stored_ZYX.dtype)
        try:
            with open_scorer(
                path, stored_ZYX.shape, membrane=False, labels_are=labels_are(stored_ZYX)
            ) as scorer:
                for z, section_YX in enumerate(result_ZYX.reshape(sections.shape)):
                    scorer.add(z, np.ascontiguousarray(section_YX, np.float32))
                found = scorer.scores()
        except ImageError as error:
            raise ImageError(str(error).replace(str(path), f"layer {labels.name!r}")) from error
    found["notes"] = [note.replace(str(path), f"layer {labels.name!r}") for note in found.get("notes", [])]
    return found


def _labels_of(viewer: Any) -> Any:
    active = viewer.layers.selection.active
    chosen = [layer for layer in viewer.layers.selection if isinstance(layer, Labels)]
    if active is None and len(chosen) == 1:
        return chosen[0]
    if not isinstance(active, Labels):
        name = "none" if active is None else f"{active.name!r}, a layer of {type(active).__name__.lower()}"
        raise ImageError(f"select the labels layer to score against; selected is {name}")
    return active


def _result_for(viewer: Any, labels: Any) -> Any:
    results = [
        layer
        for layer in viewer.layers
        if isinstance(layer, Image) and layer.metadata.get(RESULT, {}).get("kind") == "probability"
    ]
    if not results:
        raise ImageError("nothing to score yet; run Segment membranes first")
    chosen = [layer for layer in results if layer in viewer.layers.selection]
    fitting = [layer for layer in results if tuple(layer.data.shape) == tuple(labels.data.shape)]
    return (chosen or fitting or results)[-1]
