"""Scores of networks trained fold by fold, each on what it held out itself: `python -m benchmarks.studies.folds`.

    python -m benchmarks.studies.folds --stacks stacks.toml --stack isbi2012 "900 steps"=runs/folds

A folder is one that `isbi-train fit --folds N` wrote. Its own figures are against labels at the pixel size of the
training; these are at that of the stack, as a user gets them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.store import store
from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes
from isbi_train.config import TrainConfig
from isbi_train.config.stacks import read_list
from isbi_train.data.arrays import ArraySource
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.sections import ranges
from isbi_train.data.stacks import load_entry
from isbi_train.evaluation.predict import predict

from .groups import add_group, named
from .planes import scores_of
from .trials import title_and_path

NAME = "folds"


def measure(folder: Path, stack: LabelledStack) -> list[dict[str, Any]]:
    """Score each fold's network on the sections that it has not seen.

    Returns
    -------
    list of dict
        By fold: its ``sections``, and what `planes.scores_of` returns.
    """
    found = []
    for fold in json.loads((folder / "folds.json").read_text(encoding="utf-8"))["per_fold"]:
        (chosen,) = ranges(fold["sections"])
        held_out = stack[slice(chosen.start, chosen.stop)].annotated()
        checkpoint = folder / f"fold-{fold['fold']}" / "model.pth"
        source = ArraySource(held_out.image_ZYX)
        probability_ZYX, _ = predict(checkpoint, source, pixel_size=held_out.pixel_size_nm)
        found.append({"sections": fold["sections"], **scores_of(probability_ZYX, held_out)})
    return found


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.folds", description=__doc__.splitlines()[0]
    )
    found.add_argument(
        "trainings",
        nargs="+",
        type=title_and_path,
        metavar="TITLE=FOLDER",
        help="what the training was, and what `isbi-train fit --folds` wrote",
    )
    found.add_argument("--stacks", type=Path, required=True, help="list of labelled stacks, in TOML")
    found.add_argument("--stack", required=True, help="the one that was cut into folds")
    found.add_argument("--store", action="store_true", help="write benchmarks/results/")
    add_group(found)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Score every fold, print, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        entries = {entry.name: entry for entry in read_list(asked.stacks)}
        if asked.stack not in entries:
            raise UsageError(f"{asked.stacks}: no stack {asked.stack!r}; there are {', '.join(entries)}")
        stack, _ = load_entry(entries[asked.stack], TrainConfig())
        trainings = []
        for title, folder in asked.trainings:
            if not (folder / "folds.json").is_file():
                raise UsageError(
                    f"{folder}: no folds.json; isbi-train fit --folds N --out {folder} writes it"
                )
            trainings.append({"title": title, "folds": measure(folder, stack)})
            for fold in trainings[-1]["folds"]:
                print(
                    f"{title}, sections {fold['sections']}: V_rand {fold['v_rand']:.4f}, V_info {fold['v_info']:.4f}",
                    flush=True,
                )
        if asked.store:
            print(store(named(NAME, asked.group), {"stack": asked.stack, "trainings": trainings}, {}))


if __name__ == "__main__":
    main()
