"""What cutting an isotropic stack along all planes gains: `python -m benchmarks.studies.planes --stacks FILE`.

The list of stacks is one that `isbi-train fit --stacks` takes; those that are cut along xz and yz too count. A membrane
that lies flat in one plane stands upright in another. The held-out sections are segmented along each plane by itself;
what the planes say together is the geometric mean of their probabilities.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.store import store
from isbi_infer import Segmenter
from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes
from isbi_train.config.stacks import read_list
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.stacks import PLANES
from isbi_train.scores.metrics import thinned_scores

from .accuracy import held_out_sections, summary

NAME = "planes"

Probability = npt.NDArray[np.float32]


def along_planes(segmenter: Segmenter, image_ZYX: npt.NDArray[Any]) -> dict[str, Probability]:
    """Segment an isotropic volume along each plane.

    Parameters
    ----------
    segmenter : Segmenter
        That knows the pixel size.
    image_ZYX : ndarray, shape (Z, Y, X)
        Grey values.

    Returns
    -------
    dict of ndarray of float32, shape (Z, Y, X)
        Probability of cell interior, by plane.
    """
    found = {}
    for plane, axes in PLANES.items():
        cut = segmenter(np.ascontiguousarray(image_ZYX.transpose(axes)))
        found[plane] = np.asarray(cut, np.float32).transpose(np.argsort(axes))
    return found


def together(by_plane: dict[str, Probability]) -> Probability:
    """Return the geometric mean of probabilities of one shape."""
    product: Probability = np.prod(list(by_plane.values()), axis=0) ** np.float32(1 / len(by_plane))
    return product


def scores_of(probability_ZYX: Probability, held_out: LabelledStack) -> dict[str, float]:
    """Return the scores after border thinning, see `accuracy.summary`."""
    return summary(
        thinned_scores(probability_ZYX, held_out.cell_ZYX, ids=held_out.ids_ZYX, ignored=held_out.ignored_ZYX)
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.planes", description=__doc__.splitlines()[0]
    )
    found.add_argument("--stacks", type=Path, required=True, help="list of labelled stacks, in TOML")
    found.add_argument("--model", help="name of a released model, or a file [the default]")
    found.add_argument("--store", action="store_true", help="write benchmarks/results/")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Score each plane and all together on each isotropic stack, print, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        stacks = {}
        for entry in read_list(asked.stacks):
            if not set(PLANES) <= set(entry.planes):
                continue
            held_out, sections = held_out_sections(entry)
            by_plane = along_planes(
                Segmenter(asked.model, pixel_size=held_out.pixel_size_nm), held_out.image_ZYX
            )
            found = {plane: scores_of(by_plane[plane], held_out) for plane in PLANES}
            found["together"] = scores_of(together(by_plane), held_out)
            stacks[entry.name] = {"sections": sections, "scores": found}
            for which, scores in found.items():
                print(
                    f"{entry.name}, {which}: V_rand {scores['v_rand']:.4f}, V_info {scores['v_info']:.4f}",
                    flush=True,
                )
        if not stacks:
            raise UsageError(f"{asked.stacks}: no stack has planes xy, xz and yz, so none is isotropic")
        if asked.store:
            print(store(NAME, {"stacks": stacks}, {"model": asked.model}))


if __name__ == "__main__":
    main()
