"""Scores of trained networks on the held-out sections of several stacks: `python -m benchmarks.studies.trials`.

    python -m benchmarks.studies.trials --stacks stacks.toml "9,000 steps"=a/model.pth "9,000 steps"=b/model.pth

What was tried, and what it came to. Checkpoints are run by torch in float32, once over each whole section, with what
`isbi-train evaluate` runs them with; those that share a title are seeds of one training. `--mean TITLE` scores the mean
of their probabilities, too: what an ensemble of them says. `--mean-weights TITLE` scores the network of their mean
weights, for seeds that went on from one network (Wortsman et al. 2022, "Model soups", ICML). Those that are stored stay
in the table when others are measured later, if these have another `--group`: checkpoints need not be kept.

With `--unseen` each is scored only on the stacks of the list that its training left out (`isbi-train fit --leave-out`),
by their names, and trainings that left out different ones share a title: what a way of training makes of other tissue.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.store import store
from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes
from isbi_train.config.stacks import read_list
from isbi_train.data.arrays import ArraySource
from isbi_train.data.labelled import LabelledStack
from isbi_train.evaluation.predict import predict
from isbi_train.networks.checkpoint import load_checkpoint, save_checkpoint

from .accuracy import held_out_sections
from .groups import add_group, named
from .planes import Probability, scores_of

NAME, UNSEEN = "trials", "unseen"


def title_and_path(text: str) -> tuple[str, Path]:
    """Take TITLE=PATH apart; ArgumentTypeError for anything else."""
    title, _, path = text.rpartition("=")
    if not title or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not TITLE=PATH")
    return title, Path(path)


def predicted(checkpoint: Path, held_out: dict[str, LabelledStack]) -> dict[str, Probability]:
    """Return the probability of cell interior, by the name of the stack; stacks are of known pixel size."""
    return {
        name: predict(checkpoint, ArraySource(stack.image_ZYX), pixel_size=stack.pixel_size_nm)[0]
        for name, stack in held_out.items()
    }


def scored(found: dict[str, Probability], held_out: dict[str, LabelledStack]) -> dict[str, dict[str, float]]:
    """Score probabilities, by the name of the stack; see `planes.scores_of`."""
    return {name: scores_of(probability_ZYX, held_out[name]) for name, probability_ZYX in found.items()}


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """Return ``seed``, ``steps``, ``learning_rate``, ``pixel_size_nm``, ``stacks`` and ``sha256`` of a checkpoint."""
    loaded = load_checkpoint(checkpoint)
    return {
        "stacks": [stack.name for stack in loaded.stacks],
        "seed": loaded.train.seed,
        "steps": loaded.train.steps,
        "learning_rate": loaded.train.learning_rate,
        "pixel_size_nm": loaded.data["pixel_size_nm"],
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }


def left_out(checkpoint: Path, held_out: dict[str, LabelledStack]) -> dict[str, LabelledStack]:
    """Return the stacks that a training has not seen, by their names; UsageError if there is none or no name."""
    seen = facts_of(checkpoint)["stacks"]
    if not any(seen):
        raise UsageError(f"--unseen {checkpoint}: was not trained on a list, so its stack has no name")
    others = {name: stack for name, stack in held_out.items() if name not in seen}
    if not others:
        raise UsageError(
            f"--unseen {checkpoint}: was trained on all stacks of the list, {', '.join(held_out)}"
        )
    return others


def mean_of(found: Sequence[dict[str, Probability]]) -> dict[str, Probability]:
    """Return the mean of several networks' probabilities, by the name of the stack."""
    return {name: np.mean([one[name] for one in found], axis=0, dtype=np.float32) for name in found[0]}


def save_mean_weights(path: Path, checkpoints: Sequence[Path]) -> None:
    """Write the first of several checkpoints with the mean of all their weights, running statistics among them.

    UsageError if they are of different networks or pixel sizes.
    """
    first, *others = map(load_checkpoint, checkpoints)
    kind = first.network, first.train.border, first.data["pixel_size_nm"]
    if any((other.network, other.train.border, other.data["pixel_size_nm"]) != kind for other in others):
        named_files = ", ".join(map(str, checkpoints))
        raise UsageError(f"--mean-weights: {named_files} are of different networks or pixel sizes")
    mean = {
        name: torch.stack([one.state_dict[name].double() for one in (first, *others)])
        .mean(0)
        .to(weight.dtype)
        for name, weight in first.state_dict.items()
    }
    save_checkpoint(path, replace(first, state_dict=mean))


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
    found.add_argument(
        "--mean",
        action="append",
        default=[],
        metavar="TITLE",
        help="score the mean of this training's seeds too; repeatable",
    )
    found.add_argument(
        "--mean-weights",
        action="append",
        default=[],
        metavar="TITLE",
        help="score the network of the mean of their seeds' weights too; repeatable",
    )
    found.add_argument(
        "--unseen", action="store_true", help="score each only on the stacks of the list that it has not seen"
    )
    add_group(found)
    found.add_argument("--store", action="store_true", help="write benchmarks/results/")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Score every checkpoint on every stack, print, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        for _, checkpoint in asked.trials:
            if not checkpoint.is_file():
                raise UsageError(f"{checkpoint}: no such file")
        seeds_of: dict[str, list[Path]] = {}
        for title, checkpoint in asked.trials:
            seeds_of.setdefault(title, []).append(checkpoint.resolve())
        for option, titles in (("--mean", asked.mean), ("--mean-weights", asked.mean_weights)):
            for title in titles:
                paths = seeds_of.get(title, [])
                if len(paths) < 2 or len(set(paths)) < len(paths):
                    raise UsageError(f"{option} {title!r}: names no training of two seeds or more, each once")
        held_out, sections = {}, {}
        for entry in read_list(asked.stacks):
            held_out[entry.name], sections[entry.name] = held_out_sections(entry)
        trials: list[dict[str, Any]] = []
        averaged: dict[str, list[dict[str, Probability]]] = {title: [] for title in asked.mean}
        if asked.unseen and (asked.mean or asked.mean_weights):
            raise UsageError("--unseen scores single trainings; leave out --mean and --mean-weights")
        for title, checkpoint in asked.trials:
            wanted = left_out(checkpoint, held_out) if asked.unseen else held_out
            found = predicted(checkpoint, wanted)
            trials.append({"title": title, **facts_of(checkpoint), "scores": scored(found, wanted)})
            _say(trials[-1])
            if title in averaged:
                averaged[title].append(found)
        for title, of_seeds in averaged.items():
            seeds = [trial["seed"] for trial in trials if trial["title"] == title]
            scores = scored(mean_of(of_seeds), held_out)
            trials.append({"title": f"the mean of these: {title}", "seeds": seeds, "scores": scores})
            _say(trials[-1])
        for title in asked.mean_weights:
            seeds = [trial["seed"] for trial in trials if trial["title"] == title]
            with TemporaryDirectory() as folder:
                save_mean_weights(Path(folder) / "mean.pth", seeds_of[title])
                scores = scored(predicted(Path(folder) / "mean.pth", held_out), held_out)
            trials.append(
                {"title": f"the mean of the weights of these: {title}", "seeds": seeds, "scores": scores}
            )
            _say(trials[-1])
        if asked.store:
            name = UNSEEN if asked.unseen else NAME
            print(store(named(name, asked.group), {"sections": sections, "trials": trials}, {}))


def _say(trial: dict[str, Any]) -> None:
    which = f"seed {trial['seed']}" if "seed" in trial else f"seeds {trial['seeds']}"
    for name, scores in trial["scores"].items():
        print(
            f"{trial['title']}, {which}, {name}: V_rand {scores['v_rand']:.4f}, V_info {scores['v_info']:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
