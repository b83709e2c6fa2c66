"""Scores of trained networks on the held-out sections of several stacks: `python -m benchmarks.studies.trials`.

    python -m benchmarks.studies.trials --stacks stacks.toml "9,000 steps"=a/model.pth "9,000 steps"=b/model.pth

What was tried, and what it came to. Checkpoints are run by torch in float32, once over each whole section, with what
`isbi-train evaluate` runs them with; those that share a title are seeds of one training.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.store import store
from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes
from isbi_train.config.stacks import read_list
from isbi_train.data.arrays import ArraySource
from isbi_train.data.labelled import LabelledStack
from isbi_train.evaluation.predict import predict
from isbi_train.networks.checkpoint import load_checkpoint

from .accuracy import held_out_sections
from .planes import scores_of

NAME = "trials"


def title_and_path(text: str) -> tuple[str, Path]:
    """Take TITLE=PATH apart; ArgumentTypeError for anything else."""
    title, _, path = text.rpartition("=")
    if not title or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not TITLE=PATH")
    return title, Path(path)


def measure(checkpoint: Path, held_out: dict[str, LabelledStack]) -> dict[str, Any]:
    """Score one checkpoint on stacks of known pixel size.

    Returns
    -------
    dict
        ``seed``, ``steps``, ``learning_rate``, ``pixel_size_nm`` and ``sha256`` of the checkpoint, and ``scores``, by
        the name of the stack; see `planes.scores_of`.
    """
    loaded = load_checkpoint(checkpoint)
    scores = {}
    for name, stack in held_out.items():
        probability_ZYX, _ = predict(checkpoint, ArraySource(stack.image_ZYX), pixel_size=stack.pixel_size_nm)
        scores[name] = scores_of(probability_ZYX, stack)
    return {
        "seed": loaded.train.seed,
        "steps": loaded.train.steps,
        "learning_rate": loaded.train.learning_rate,
        "pixel_size_nm": loaded.data["pixel_size_nm"],
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "scores": scores,
    }


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.trials", description=__doc__.splitlines()[0]
    )
    found.add_argument(
        "trials",
        nargs="+",
        type=title_and_path,
        metavar="TITLE=CHECKPOINT",
        help="what the training was, and its .pth; the same title again is another seed",
    )
    found.add_argument("--stacks", type=Path, required=True, help="list of labelled stacks, in TOML")
    found.add_argument("--store", action="store_true", help="write benchmarks/results/")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Score every checkpoint on every stack, print, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        for _, checkpoint in asked.trials:
            if not checkpoint.is_file():
                raise UsageError(f"{checkpoint}: no such file")
        held_out, sections = {}, {}
        for entry in read_list(asked.stacks):
            held_out[entry.name], sections[entry.name] = held_out_sections(entry)
        trials = []
        for title, checkpoint in asked.trials:
            found = {"title": title, **measure(checkpoint, held_out)}
            trials.append(found)
            for name, scores in found["scores"].items():
                print(
                    f"{title}, seed {found['seed']}, {name}: V_rand {scores['v_rand']:.4f}, "
                    f"V_info {scores['v_info']:.4f}",
                    flush=True,
                )
        if asked.store:
            print(store(NAME, {"sections": sections, "trials": trials}, {}))


if __name__ == "__main__":
    main()
