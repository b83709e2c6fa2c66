"""What a trained network costs and is worth: exported as it would ship, scored and timed through `isbi_infer`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.measure import compared, interleaved
from isbi_export.publish import NotPublishedError, publish
from isbi_export.variants import PRECISIONS as LONG
from isbi_infer import Segmenter
from isbi_infer.backends.cores import available_cores
from isbi_infer.errors import UsageError
from isbi_train.data.labelled import LabelledStack
from isbi_train.evaluation.evaluate import headline
from isbi_train.networks.checkpoint import Checkpoint, file_sha256, shapes_of
from isbi_train.scores.metrics import thinned_scores
from isbi_train.training.state import MODEL

from .candidates import training_seconds

PRECISIONS = ("fp32", "int8")
SECTION = 512  # side of the section that operations are counted for
_COUNTED = (".weight", ".bias")  # of what a state dictionary holds; the rest are BatchNorm's statistics


def describe(folder: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a network is and what training it took."""
    sizes = {name: shape for name, shape in shapes_of(checkpoint.network).items() if name.endswith(_COUNTED)}
    return {
        "network": checkpoint.network.to_plain(),
        "parameters": sum(prod(shape) for shape in sizes.values()),
        "epochs": checkpoint.epoch,
        "training_s": training_seconds(folder),
        "checkpoint_sha256": file_sha256(folder / MODEL),
    }


def export(folder: Path, sections: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Export a run's network in float32 and int8, which is calibrated on sections that it was trained on.

    Parameters
    ----------
    folder : Path
        Of the run; the files go there.
    sections : Path
        The stack it was trained on.

    Returns
    -------
    paths : dict of str to Path
        By precision.
    refused : dict of str to str
        Why a precision was not published.
    """
    try:
        report = publish(folder / MODEL, folder, ["onnx"], precisions=PRECISIONS, calibrate=[sections])
    except NotPublishedError as error:
        report = error.report
    short = {long: name for name, long in LONG.items()}
    paths = {short[file.variant.precision]: file.path for file in report.files if file.published}
    refused = {short[f.variant.precision]: ", ".join(f.refused) for f in report.files if not f.published}
    return paths, refused


def score(model: Path, held_out: LabelledStack) -> dict[str, float]:
    """Score an exported file on held-out sections, one forward pass each.

    Returns
    -------
    dict
        ``v_rand_thin``, ``v_info_thin`` and the thresholds they are best at; ``bytes`` of the file, and ``gflop`` for a
        section of 512 x 512.
    """
    segmenter = Segmenter(model, provider="cpu")
    found = headline(thinned_scores(segmenter(held_out.image_ZYX), held_out.cell_ZYX))
    gflop = segmenter.contract.flops_per_pixel * SECTION**2 / 1e9
    return {**found, "bytes": model.stat().st_size, "gflop": gflop}


def times(
    models: Mapping[str, Path], held_out: LabelledStack, rounds: int, baseline: str
) -> dict[str, dict[str, Any]]:
    """Time all files in interleaved rounds: one section on one core, then all sections on all cores.

    Parameters
    ----------
    models : mapping of str to Path
        By name.
    held_out : LabelledStack
        What is segmented.
    rounds : int
        That count.
    baseline : str
        The name whose times the others' are divided by.

    Returns
    -------
    dict
        ``one_core`` and ``all_cores``, each as `benchmarks.measure.compared` returns it.
    """
    section_YX, sections_ZYX = held_out.image_ZYX[0], held_out.image_ZYX

    def found(image: Any) -> dict[str, Any]:
        segmenters = {name: Segmenter(path, provider="cpu") for name, path in models.items()}
        works = {name: partial(segmenter, image) for name, segmenter in segmenters.items()}
        return compared(interleaved(works, rounds), baseline)

    with _one_core():
        alone = found(section_YX)
    together = {**found(sections_ZYX), "cores": available_cores(), "sections": len(sections_ZYX)}
    return {"one_core": alone, "all_cores": together}


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this thread, and those it starts, on one core."""
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("this system cannot keep a process on one core; time the networks on Linux")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
