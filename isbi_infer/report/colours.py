"""Colours of neurons, which no two that lie side by side in a picture share."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer[Any]]

MOST = 255  # of an indexed picture, beside what is clear
_GOLDEN = 0.618033988749895
_APART = (1, 2, 3)  # pixels: cells side by side, or with a line of one or two pixels between them


def hue(number: int) -> tuple[int, int, int]:
    """Return a colour; those of neighbouring numbers are far apart."""
    red, green, blue = colorsys.hsv_to_rgb((number * _GOLDEN) % 1.0, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def colours_apart(pictures: Iterable[Labels]) -> dict[int, int]:
    """Choose a colour for each id, another one than any id has that is beside it in one of the pictures.

    Parameters
    ----------
    pictures : iterable of ndarray of integers, shape (Y, X)
        Ids from 1; 0 = none.

    Returns
    -------
    dict of int to int
        Number of the colour, see `hue`, of each id; below `MOST`. An id has its own colour, by its number, unless a
        smaller one beside it has that already; the same pictures give the same colours. Only an id that lies beside
        `MOST` others of different colours, or more, shares one.
    """
    beside: dict[int, set[int]] = {}
    for labels_YX in pictures:
        for found in np.unique(labels_YX[labels_YX > 0]).tolist():
            beside.setdefault(found, set())
        for one, other in _pairs(labels_YX):
            beside[one].add(other)
            beside[other].add(one)
    chosen: dict[int, int] = {}
    for label in sorted(beside):
        taken = {chosen[other] for other in beside[label] if other in chosen}
        own = label % MOST
        chosen[label] = next((n for k in range(MOST) if (n := (own + k) % MOST) not in taken), own)
    return chosen


def indexed(labels_YX: Labels, chosen: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    """Return 0 where there is no id, and one more than the number of its colour elsewhere."""
    ids, place = np.unique(labels_YX, return_inverse=True)
    numbers = np.array([1 + chosen[label] if label else 0 for label in ids.tolist()], np.uint8)
    return numbers[place].reshape(labels_YX.shape)


def _pairs(labels_YX: Labels) -> list[tuple[int, int]]:
    """List the pairs of ids that lie beside each other along an axis."""
    found = []
    for step in _APART:
        for one, other in (
            (labels_YX[step:], labels_YX[:-step]),
            (labels_YX[:, step:], labels_YX[:, :-step]),
        ):
            apart = (one != other) & (one > 0) & (other > 0)
            found.append(np.unique(np.stack((one[apart], other[apart]), axis=1), axis=0))
    return [(int(one), int(other)) for one, other in np.unique(np.concatenate(found), axis=0)]
