"""Cross-validation over blocks of neighbouring sections: each block is held out once."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from isbi_infer.errors import UsageError
from isbi_infer.files import replacing
from isbi_infer.terminal.progress import Display
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.config.inputs import Inputs
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.sections import blocks
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.training.distributed import SINGLE_PROCESS, ProcessGroup
from isbi_train.training.state import BEST, MODEL
from isbi_train.training.train import fit

FOLDS = "folds.json"
SCORES = ("v_rand_thin", "v_info_thin", "loss")


def fold_config(train: TrainConfig, held_out: slice) -> TrainConfig:
    """Return the settings that hold out one block of sections."""
    return replace(train, hold_out=held_out.stop - held_out.start, hold_out_start=held_out.start)


def cross_validate(
    stack: LabelledStack,
    out: Path,
    *,
    folds: int,
    only: int | None = None,
    network: NetworkConfig,
    augment: AugmentConfig,
    train: TrainConfig,
    inputs: Inputs | None = None,
    report: Callable[[int, dict[str, Any]], None] | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    display: Display | None = None,
) -> dict[str, Any]:
    """Train one model for each block of sections, on all others, and average their scores.

    Folds that were finished before are not trained again, and a stopped one goes on where it stopped.

    Parameters
    ----------
    stack : LabelledStack
        All labelled sections.
    out : Path
        Folder for ``fold-0``, ``fold-1`` ..., each as `isbi_train.training.train.fit` leaves it, and ``folds.json``.
    folds : int
        How many blocks.
    only : int, optional
        Train this one only.
    network, augment, train, inputs
        As for `isbi_train.training.train.fit`; what `train` holds out is replaced.
    report : callable, optional
        Called with the fold and what `isbi_train.training.train.fit` reports.
    processes : ProcessGroup
        The processes that train together.
    display : Display, optional
        As for `isbi_train.training.train.fit`.

    Returns
    -------
    dict
        What is in ``folds.json``, see `collect_scores`; empty in all processes but the main one.

    Raises
    ------
    UsageError
        If there are fewer sections than folds, or no such fold; and see `isbi_train.training.train.fit`.
    """
    held_out = blocks(len(stack), folds)
    chosen = range(folds) if only is None else [only]
    if only is not None and not 0 <= only < folds:
        raise UsageError(f"there is no fold {only} of {folds}; they are counted from 0 to {folds - 1}")
    for fold in chosen:
        folder = fold_folder(out, fold)
        fit(
            stack,
            folder,
            network=network,
            augment=augment,
            train=fold_config(train, held_out[fold]),
            inputs=inputs,
            resume=folder.exists(),
            report=partial(report, fold) if report else None,
            processes=processes,
            display=display,
        )
    if not processes.is_main:
        return {}
    found = collect_scores(out, folds)
    with replacing(out / FOLDS) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    return found


def fold_folder(out: Path, fold: int) -> Path:
    """Name the folder of one fold."""
    return out / f"fold-{fold}"


def collect_scores(out: Path, folds: int) -> dict[str, Any]:
    """Collect and average the scores of the folds that have some.

    Parameters
    ----------
    out : Path
        See `cross_validate`.
    folds : int
        How many there should be.

    Returns
    -------
    dict
        ``folds``; ``per_fold``, each with ``fold``, ``epoch``, the scores of its last weights, and those of its best
        validation as ``best``; ``mean`` and ``spread`` (the sample standard deviation, None for one fold) of the last
        weights' scores. Best validations are chosen by the very scores they show, so they are not averaged.
    """
    per_fold = []
    for fold in range(folds):
        folder = fold_folder(out, fold)
        if not (folder / MODEL).exists():
            continue
        last, best = (load_checkpoint(folder / name) for name in (MODEL, BEST))
        per_fold.append(
            {"fold": fold, "epoch": last.epoch, **last.scores, "best": {"epoch": best.epoch, **best.scores}}
        )
    return {"folds": folds, "per_fold": per_fold, **averaged(per_fold)}


def averaged(per_fold: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Average scores over folds.

    Parameters
    ----------
    per_fold : sequence of mapping
        Each with `SCORES`; more is not looked at.

    Returns
    -------
    dict
        ``mean`` and ``spread`` (the sample standard deviation, None for one fold) of every score; no mean of no fold.
    """
    values = {score: [entry[score] for entry in per_fold] for score in SCORES}
    return {
        "mean": {score: statistics.fmean(found) for score, found in values.items() if found},
        "spread": {
            score: statistics.stdev(found) if len(found) > 1 else None for score, found in values.items()
        },
    }
