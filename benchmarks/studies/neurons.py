"""Scores of neurons with and without links: `python -m benchmarks.studies.neurons --probability P.tif --ids IDS.tif`.

The threshold, and the multicut's share, are chosen by the adapted Rand error on the sections to tune on, and scored on
others. The probabilities are those that `isbi-infer` writes as float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks.store import store
from isbi_infer.errors import UsageError
from isbi_infer.neurons.linking import Linker, MutualOverlap, Unlinked
from isbi_infer.neurons.multicut import SHARE, Multicut
from isbi_infer.neurons.segments import segment_section
from isbi_infer.terminal import exit_codes
from isbi_train.evaluation.evaluate import section_range
from isbi_train.scores.instances import instance_scores

THRESHOLDS = (0.5, 0.7, 0.9)
SHARES = (0.1, 0.2, 0.3)


def neurons(linker: Linker, probability_ZYX: np.ndarray, threshold: float) -> np.ndarray:
    """Return the ids of each pixel, 0 = none."""
    sections = [segment_section(probability_YX, threshold) for probability_YX in probability_ZYX]
    for section_YX, probability_YX in zip(sections, probability_ZYX, strict=True):
        linker.add(section_YX, probability_YX)
    ids, done = linker.components() + 1, 0
    found_ZYX = np.zeros(probability_ZYX.shape, np.int64)
    for found_YX, section_YX in zip(found_ZYX, sections, strict=True):
        count = int(section_YX.max())
        found_YX[:] = np.concatenate([[0], ids[done : done + count]])[section_YX]
        done += count
    return found_ZYX


def scored(
    linker: Linker, probability_ZYX: np.ndarray, ids_ZYX: np.ndarray, threshold: float
) -> dict[str, Any]:
    """Link and score."""
    started = time.perf_counter()
    found_ZYX = neurons(linker, probability_ZYX, threshold)
    seconds = time.perf_counter() - started
    return asdict(instance_scores(found_ZYX, ids_ZYX)) | {"threshold": threshold, "seconds": seconds}


def measure(probability_ZYX: np.ndarray, ids_ZYX: np.ndarray, tune: range, score: range) -> dict[str, Any]:
    """Choose on `tune`, score on `score`."""
    chosen_of = slice(tune.start, tune.stop)
    tuned = probability_ZYX[chosen_of], ids_ZYX[chosen_of]
    threshold = min(THRESHOLDS, key=lambda t: scored(MutualOverlap(), *tuned, t)["error"])
    share = min(SHARES, key=lambda s: scored(Multicut(threshold, share=s), *tuned, threshold)["error"])
    held_out = probability_ZYX[score.start : score.stop], ids_ZYX[score.start : score.stop]
    linkers = {
        "none": Unlinked(),
        "overlap": MutualOverlap(),
        "multicut": Multicut(threshold),
        "multicut, share chosen": Multicut(threshold, share=share),
    }
    by_link = {name: scored(linker, *held_out, threshold) for name, linker in linkers.items()}
    return {"by_link": by_link, "threshold": threshold, "share": share, "default_share": SHARE}


def check_apart(tune: range, score: range) -> None:
    """Raise UsageError where what is chosen on is scored, too."""
    shared = range(max(tune.start, score.start), min(tune.stop, score.stop))
    if shared:
        raise UsageError(
            f"--tune {tune.start}:{tune.stop} and --score {score.start}:{score.stop} share sections "
            f"{shared.start}:{shared.stop}; score on others than are chosen on"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and store where that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.neurons", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--probability", type=Path, required=True)
    parser.add_argument("--ids", type=Path, required=True)
    parser.add_argument("--tune", required=True, help="sections to choose on, such as 0:12")
    parser.add_argument("--score", required=True, help="sections to score")
    parser.add_argument("--name", required=True, help="of the tissue")
    parser.add_argument("--store", action="store_true", help="write benchmarks/results/")
    asked = parser.parse_args(argv)
    with exit_codes(parser.prog):
        probability_ZYX, ids_ZYX = tifffile.imread(asked.probability), tifffile.imread(asked.ids)
        tune, score = (section_range(text, len(ids_ZYX)) for text in (asked.tune, asked.score))
        check_apart(tune, score)
        found = measure(probability_ZYX, ids_ZYX, tune, score)
        for name, scores in found["by_link"].items():
            print(
                f"{name:24} adapted Rand error {scores['error']:.3f}, variation of information "
                f"{scores['splits']:.2f} + {scores['mergers']:.2f} bits, {scores['found']} ids, "
                f"{scores['seconds']:.2f} s"
            )
        print(f"threshold {found['threshold']}, share {found['share']}")
        if asked.store:
            settings = {"tune": asked.tune, "score": asked.score}
            print(store(f"neurons-{asked.name}", found, settings))


if __name__ == "__main__":
    main()
