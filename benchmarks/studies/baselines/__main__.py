"""Train a published network on our folds for as much CPU time as ours takes, and score it."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isbi_infer.errors import UsageError
from isbi_infer.files import replacing
from isbi_infer.terminal import exit_codes

if TYPE_CHECKING:
    from isbi_train.data.labelled import LabelledStack

    from .plan import Plan

NAMES = ("basicunet", "unet", "dynunet", "unet-64", "released")
RESULT, WEIGHTS, SUMMARY = "result.json", "weights.pth", "baselines.json"


def compare(stack: LabelledStack, folder: Path, plan: Plan, only: list[str] | None = None) -> dict[str, Any]:
    """Train and score on every block that has no result yet, and sum up.

    Parameters
    ----------
    stack : LabelledStack
        All labelled sections.
    folder : Path
        For ``last``, ``fold-0`` ..., each with ``result.json`` and ``weights.pth``, and ``baselines.json``.
    plan : Plan
        What to do.
    only : list of str, optional
        These blocks only.

    Returns
    -------
    dict
        What is in ``baselines.json``, see `summed_up`.

    Raises
    ------
    UsageError
        If there is no such block.
    """
    import torch

    from .plan import held_out_blocks
    from .training import Split, train_and_score

    blocks = held_out_blocks(len(stack), plan.train)
    unknown = sorted(set(only or ()) - set(blocks))
    if unknown:
        raise UsageError(f"nothing is held out as {', '.join(unknown)}; choose from {', '.join(blocks)}")
    for part in only or blocks:
        if (folder / part / RESULT).exists():
            continue
        split = Split.of(stack, blocks[part], plan.augment, plan.train)
        steps = plan.steps(split.our_steps)
        say = partial(_say_step, f"{plan.name} {part}")
        result, weights = train_and_score(
            split,
            plan.network.build,
            plan.network.stride,
            steps,
            planar=plan.record["planar"],
            progress=say,
        )
        (folder / part).mkdir(parents=True, exist_ok=True)
        with replacing(folder / part / WEIGHTS) as temporary:
            torch.save(weights, temporary)
        with replacing(folder / part / RESULT) as temporary:
            temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    found = summed_up(folder, plan, list(blocks))
    with replacing(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def summed_up(folder: Path, plan: Plan, parts: list[str]) -> dict[str, Any]:
    """Put the plan and all results that are there together.

    Returns
    -------
    dict
        The plan's record; ``last``, the result on the last sections, or None; ``folds``, ``per_fold``, ``mean`` and
        ``spread`` as in `isbi_train.training.folds.collect_scores`.
    """
    from isbi_train.training.folds import averaged

    from .plan import LAST

    results = {
        part: json.loads((folder / part / RESULT).read_text(encoding="utf-8"))
        for part in parts
        if (folder / part / RESULT).exists()
    }
    last = results.pop(LAST, None)
    per_fold = [{"fold": int(part.removeprefix("fold-")), **result} for part, result in results.items()]
    return {
        **plan.record,
        LAST: last,
        "folds": len(parts) - 1,
        "per_fold": per_fold,
        **averaged(per_fold),
    }


def _say_step(what: str, step: int, total: int, loss: float) -> None:
    print(f"{what}  step {step} of {total}  training loss {loss:.4f}", flush=True)


def _say(found: dict[str, Any]) -> None:
    scored = [*found["per_fold"], *([found["last"]] if found["last"] else [])]
    for entry in scored:
        print(
            f"sections {entry['sections']}  {entry['steps']} steps  {entry['cpu_s'] / 60:.1f} CPU minutes  "
            f"V_rand {entry['v_rand_thin']:.4f}  V_info {entry['v_info_thin']:.4f}"
        )
    for name, score in (("V_rand", "v_rand_thin"), ("V_info", "v_info_thin")):
        if score in found["mean"]:
            spread = found["spread"][score]
            around = "" if spread is None else f" +- {spread:.4f}"
            print(
                f"{name} {found['mean'][score]:.4f}{around} over {len(found['per_fold'])} of {found['folds']} folds"
            )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.studies.baselines", description=__doc__)
    found.add_argument(
        "--data", type=Path, required=True, help="folder with train-volume.tif and train-labels.tif"
    )
    found.add_argument("--out", type=Path, required=True, help="folder for a folder of the network")
    found.add_argument("--network", choices=NAMES, default=NAMES[0], help="[%(default)s]; released is ours")
    found.add_argument(
        "--loss",
        choices=("weighted", "plain"),
        default="weighted",
        help="our recipe's, or plain [%(default)s]",
    )
    found.add_argument("--minutes", type=float, help="CPU minutes of one training [as many as ours takes]")
    found.add_argument(
        "--fold",
        action="append",
        metavar="K",
        help="only this one: 0 to 4, or last for the last five sections; repeatable [all six]",
    )
    found.add_argument("--store", action="store_true", help="write benchmarks/results/ once all are done")
    return found


def main(argv: list[str] | None = None) -> None:
    """Train, score, sum up."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        if asked.minutes is not None and not asked.minutes > 0:
            raise UsageError(f"--minutes {asked.minutes:g} is not above 0")
        from benchmarks.store import store
        from isbi_train.data.labelled import load_labelled

        from .plan import make_plan, settings

        stack = load_labelled(asked.data)
        augment, train = settings(asked.loss)
        name = asked.network + ("-plain" if asked.loss == "plain" else "")
        folder = asked.out / name
        plan = make_plan(
            stack, folder, asked.network, augment=augment, train=train, loss=asked.loss, minutes=asked.minutes
        )
        seconds = ", ".join(f"{name} {s:.3f} s" for name, s in plan.record["cpu_s_per_step"].items())
        print(f"CPU time of a step: {seconds}; {plan.record['threads']} threads, {plan.record['dtype']}")
        only = asked.fold and [k if k == "last" else f"fold-{k}" for k in asked.fold]
        found = compare(stack, folder, plan, only)
        _say(found)
        print(folder / SUMMARY)
        if asked.store:
            if found["last"] is None or len(found["per_fold"]) < found["folds"]:
                raise UsageError(f"{folder}: not all blocks are done, so nothing is stored; leave --fold out")
            print(store(f"baseline-{name}", found, {"recipe": "released", "data": "ISBI 2012"}))


if __name__ == "__main__":
    main()
