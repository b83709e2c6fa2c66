"""Borders that a model misses, by how far membranes lean: `python -m benchmarks.studies.tilt --stacks FILE`.

The list of stacks is one that `isbi-train fit --stacks` takes; those of isotropic ids count. A membrane that stands
upright on the section is a dark line in it; one that lies flat is a grey veil, and a single section hardly shows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from benchmarks.store import store
from isbi_infer import Segmenter
from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes
from isbi_train.config import TrainConfig
from isbi_train.config.stacks import read_list
from isbi_train.data.stacks import load_entry

NAME = "tilt"
DEGREES = (0, 15, 30, 45, 60, 75, 90)  # between a membrane and upright
_SMOOTHED_PX = 2.0  # over which faces of pixels are counted
_REACH_PX = 2  # a border is found where a membrane is within it
_APART_PX = 3  # a membrane is false where no border is within it

Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.integer]


def borders(ids_ZYX: Ids) -> Mask:
    """Return the pixels whose right or lower neighbour in the section has another id."""
    found_ZYX = np.zeros(ids_ZYX.shape, np.bool_)
    found_ZYX[:, :-1] |= ids_ZYX[:, 1:] != ids_ZYX[:, :-1]
    found_ZYX[:, :, :-1] |= ids_ZYX[:, :, 1:] != ids_ZYX[:, :, :-1]
    return found_ZYX


def tilts(ids_ZYX: Ids) -> npt.NDArray[np.float32]:
    """Return how far borders nearby lean from upright.

    Parameters
    ----------
    ids_ZYX : ndarray of integers, shape (Z, Y, X)
        Of an isotropic volume.

    Returns
    -------
    ndarray of float32, of this shape
        Degrees: 0 where they are perpendicular to the section, 90 where they lie in it. Of no meaning far from borders.
    """
    along = []
    for axis in range(3):
        differs = np.diff(ids_ZYX.astype(np.int64), axis=axis, append=ids_ZYX.take([-1], axis)) != 0
        along.append(ndimage.gaussian_filter(differs.astype(np.float32), _SMOOTHED_PX))
    in_plane = np.hypot(along[1], along[2])
    found_ZYX: npt.NDArray[np.float32] = np.degrees(np.arctan2(along[0], in_plane)).astype(np.float32)
    return found_ZYX


def by_tilt(
    probability_ZYX: npt.NDArray[np.floating],
    ids_ZYX: Ids,
    tilt_ZYX: npt.NDArray[np.float32],
    threshold: float,
) -> dict[str, Any]:
    """Count the borders that are missed, and membranes where none is.

    Parameters
    ----------
    probability_ZYX : ndarray of floats, shape (Z, Y, X)
        Of cell.
    ids_ZYX : ndarray of integers, of this shape
        The truth.
    tilt_ZYX : ndarray of float32, of this shape
        From `tilts`.
    threshold : float
        Membrane is what lies below it.

    Returns
    -------
    dict
        ``rows``, with ``from_degrees``, ``to_degrees``, ``share`` of all borders and ``missed`` of these, both in
        [0, 1], ``missed`` None where there are none; ``false_membrane``, the share of the pixels far from borders that
        are called membrane.
    """
    border_ZYX = borders(ids_ZYX)
    side = 2 * _REACH_PX + 1
    nearest_ZYX = ndimage.minimum_filter(probability_ZYX, (1, side, side))
    rows = []
    for low, high in pairwise(DEGREES):
        last = high == DEGREES[-1]
        chosen_ZYX = border_ZYX & (tilt_ZYX >= low) & ((tilt_ZYX < high) | last)
        missed = nearest_ZYX[chosen_ZYX] >= threshold
        rows.append(
            {
                "from_degrees": low,
                "to_degrees": high,
                "share": float(chosen_ZYX.sum() / max(1, border_ZYX.sum())),
                "missed": float(missed.mean()) if missed.size else None,
            }
        )
    side = 2 * _APART_PX + 1
    far_ZYX = ~ndimage.maximum_filter(border_ZYX, (1, side, side))
    false = (probability_ZYX < threshold) & far_ZYX
    return {"rows": rows, "false_membrane": float(false.sum() / max(1, far_ZYX.sum()))}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.tilt", description=__doc__.splitlines()[0]
    )
    found.add_argument("--stacks", type=Path, required=True, help="list of labelled stacks, in TOML")
    found.add_argument("--model", help="name of a released model, or a file [the default]")
    found.add_argument("--threshold", type=float, default=0.5, help="membrane is below it [%(default)s]")
    found.add_argument("--store", action="store_true", help="write benchmarks/results/")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Count on the held-out sections of each isotropic stack of ids, print, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        stacks = {}
        for entry in read_list(asked.stacks):
            if entry.kind != "ids" or "xz" not in entry.planes:
                continue  # cut along xz too: isotropic
            stack, split = load_entry(entry, TrainConfig())
            held_out = split.held_out(len(stack))
            assert stack.ids_ZYX is not None
            probability_ZYX = Segmenter(asked.model, pixel_size=stack.pixel_size_nm)(
                stack.image_ZYX[held_out]
            )
            found = by_tilt(
                probability_ZYX, stack.ids_ZYX[held_out], tilts(stack.ids_ZYX)[held_out], asked.threshold
            )
            stacks[entry.name] = {"sections": f"{held_out.start}:{held_out.stop}", **found}
            _say(entry.name, found)
        if not stacks:
            raise UsageError(f"{asked.stacks}: no stack has ids and planes along xz, so none is isotropic")
        if asked.store:
            print(store(NAME, {"stacks": stacks}, {"model": asked.model, "threshold": asked.threshold}))


def _say(name: str, found: dict[str, Any]) -> None:
    for row in found["rows"]:
        missed = "none" if row["missed"] is None else f"{row['missed']:.1%} missed"
        print(
            f"{name}: {row['from_degrees']:2} to {row['to_degrees']} degrees from upright, "
            f"{row['share']:.1%} of the borders: {missed}"
        )
    print(f"{name}: {found['false_membrane']:.1%} of the pixels far from borders called membrane", flush=True)


if __name__ == "__main__":
    main()
