"""Scores of models on the held-out sections of several stacks: `python -m benchmarks.studies.accuracy --stacks FILE`.

The list of stacks is one that `isbi-train fit --stacks` takes. Each model segments the held-out sections of each stack
once, at the stack's pixel size, as a user would; nothing is chosen by these scores. With `--group NAME` they are stored
apart from those of the released models; the group fine-tuning has a table of its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.store import store
from isbi_infer import Segmenter
from isbi_infer.terminal import exit_codes
from isbi_models import released_models
from isbi_train.config import TrainConfig
from isbi_train.config.stacks import StackEntry, read_list
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.stacks import load_entry
from isbi_train.scores.metrics import thinned_scores
from isbi_train.scores.thinned import ThinnedScores

from .groups import add_group, named

NAME = "accuracy"
_FIXED = 0.5  # a threshold that nobody chose


def held_out_sections(entry: StackEntry) -> tuple[LabelledStack, str]:
    """Read a stack's sections that are held out; return them, and which they are."""
    stack, split = load_entry(entry, TrainConfig())
    chosen = split.held_out(len(stack))
    return stack[chosen].annotated(), f"{chosen.start}:{chosen.stop}"


def summary(found: ThinnedScores) -> dict[str, float]:
    """Return both scores at the best of the thresholds, which ones these are, and both scores at 0.5."""
    fixed = int(abs(found.thresholds - _FIXED).argmin())
    return {
        "v_rand": float(found.v_rand),
        "v_info": float(found.v_info),
        "best_threshold_rand": float(found.best_threshold_rand),
        "best_threshold_info": float(found.best_threshold_info),
        "v_rand_at_0.5": float(found.rand.mean[fixed]),
        "v_info_at_0.5": float(found.info.mean[fixed]),
    }


def measure(model: str, precision: str, held_out: LabelledStack) -> dict[str, Any]:
    """Score one model on the sections of one stack.

    Parameters
    ----------
    model : str
        As `isbi_infer.Segmenter` takes it.
    precision : str
        Likewise.
    held_out : LabelledStack
        Of known pixel size.

    Returns
    -------
    dict
        ``v_rand`` and ``v_info`` after border thinning, ``best_threshold_rand`` and ``best_threshold_info``, both
        scores at 0.5, ``by_section``, both scores of each section at the best thresholds of them all, and ``seconds``
        of segmenting.
    """
    segmenter = Segmenter(model, precision=precision, pixel_size=held_out.pixel_size_nm)
    started = time.perf_counter()
    probability_ZYX = segmenter(held_out.image_ZYX)
    seconds = time.perf_counter() - started
    found = thinned_scores(
        probability_ZYX, held_out.cell_ZYX, ids=held_out.ids_ZYX, ignored=held_out.ignored_ZYX
    )
    by_section = {
        key: scores.score[scores.thresholds == scores.best_threshold][0].tolist()
        for key, scores in (("v_rand", found.rand), ("v_info", found.info))
    }
    return {
        **summary(found),
        "by_section": by_section,
        "seconds": seconds,
        "precision": segmenter.precision,
        "runtime": segmenter.provider,
        "model_sha256": segmenter.model_sha256,
    }


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.accuracy", description=__doc__.splitlines()[0]
    )
    found.add_argument("--stacks", type=Path, required=True, help="list of labelled stacks, in TOML")
    found.add_argument(
        "--model",
        action="append",
        default=[],
        help="name of a released model, or a file; repeatable [all released ones]",
    )
    found.add_argument("--precision", default="auto", help="of all models [the fastest that passed its gate]")
    add_group(found)
    found.add_argument("--store", action="store_true", help="write benchmarks/results/")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Score every model on every stack, print, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        models = asked.model or list(released_models())
        by_model: dict[str, dict[str, Any]] = {Path(model).name: {} for model in models}
        stacks = {}
        for entry in read_list(asked.stacks):
            held_out, sections = held_out_sections(entry)
            stacks[entry.name] = {
                "sections": sections,
                "shape": list(held_out.image_ZYX.shape),
                "pixel_size_nm": held_out.pixel_size_nm,
                "sha256": held_out.sha256(),
            }
            for model in models:
                found = measure(model, asked.precision, held_out)
                by_model[Path(model).name][entry.name] = found
                print(
                    f"{Path(model).name:24} {entry.name:16} V_rand {found['v_rand']:.4f} at "
                    f"{found['best_threshold_rand']:.1f}  V_info {found['v_info']:.4f} at "
                    f"{found['best_threshold_info']:.1f}  {found['precision']} {found['seconds']:.1f} s",
                    flush=True,
                )
        if asked.store:
            name = named(NAME, asked.group)
            print(store(name, {"by_model": by_model, "stacks": stacks}, {"precision": asked.precision}))


if __name__ == "__main__":
    main()
