"""Links of segments through the stack, section after section.

::

    none       each segment of each section is by itself
    overlap    two segments of neighbouring sections are one where each is what the other overlaps most
    multicut   all segments form a graph, and what a multicut does not part is one; see `multicut`

The best overlap seen from one side alone is no rule: every fragment joins something, and through it all becomes one.
Each linker numbers the segments of the whole stack ("nodes") in the order of sections, and of labels within each.
What it needs of a section and the one below it can be looked at anywhere; it is taken in the order of sections.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from isbi_infer.neurons.segments import Labels

Link = Literal["none", "overlap", "multicut"]
Nodes = npt.NDArray[np.int64]
Costs = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Pairs of segments of two neighbouring sections that share pixels.

    Attributes
    ----------
    lower, upper : int64 arrays, shape (pairs,)
        Labels in the one and in the other section; pairs in ascending order.
    pixels : int64 array, shape (pairs,)
        How many they share.
    """

    lower: Nodes
    upper: Nodes
    pixels: Nodes


def overlaps(lower_YX: Labels, upper_YX: Labels) -> Overlaps:
    """Count the pixels that segments of two sections of one shape share; 0 is no segment."""
    both = (lower_YX > 0) & (upper_YX > 0)
    width = np.int64(upper_YX.max(initial=0)) + 1
    codes, pixels = np.unique(lower_YX[both] * width + upper_YX[both], return_counts=True)
    return Overlaps(codes // width, codes % width, pixels.astype(np.int64))


def mutual_best(found: Overlaps) -> tuple[Nodes, Nodes]:
    """Return the pairs in which each segment is what the other overlaps most; of equals, the lowest label counts.

    Parameters
    ----------
    found : Overlaps
        Of two sections.

    Returns
    -------
    lower, upper : int64 arrays, shape (pairs,)
        Each label occurs once at most.
    """
    best_of_lower = _first_of(found.lower, np.lexsort((found.upper, -found.pixels, found.lower)))
    best_of_upper = _first_of(found.upper, np.lexsort((found.lower, -found.pixels, found.upper)))
    pairs = np.intersect1d(best_of_lower, best_of_upper)
    return found.lower[pairs], found.upper[pairs]


def _first_of(labels: Nodes, order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    _, first = np.unique(labels[order], return_index=True)
    return order[first]


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """What a section says of its own segments and of those of the section below it.

    Attributes
    ----------
    count : int
        Segments of the section.
    within, between : int64 arrays, shape (pairs, 2)
        Labels of two segments of the section; and of one below, and one of the section.
    within_costs, between_costs : float64 arrays, shape (pairs,)
        Positive where the two belong together; empty where pairs are links as they are.
    """

    count: int
    within: Nodes = field(default_factory=lambda: np.empty((0, 2), np.int64))
    within_costs: Costs = field(default_factory=lambda: np.empty(0))
    between: Nodes = field(default_factory=lambda: np.empty((0, 2), np.int64))
    between_costs: Costs = field(default_factory=lambda: np.empty(0))


class Linker(ABC):
    """Joins segments into components: looks at a section and the one below, anywhere, and takes the links in order."""

    def __init__(self) -> None:
        self._below: Labels | None = None

    @abstractmethod
    def links(self, labels_YX: Labels, probability_YX: npt.NDArray[Any], below_YX: Labels | None) -> Links:
        """Look at a section and the one below it, None for the first: segments from 1 without gaps."""

    @abstractmethod
    def take(self, links: Links) -> None:
        """Take the links of the next section."""

    @abstractmethod
    def components(self) -> Nodes:
        """Return the component of each node, any number from 0."""

    def add(self, labels_YX: Labels, probability_YX: npt.NDArray[Any]) -> None:
        """Look at the next section, and take its links: segments from 1 without gaps, and the probability of cell."""
        self.take(self.links(labels_YX, probability_YX, self._below))
        self._below = labels_YX


class Unlinked(Linker):
    """No links: each node is a component."""

    def __init__(self) -> None:
        super().__init__()
        self._nodes = 0

    def links(self, labels_YX: Labels, probability_YX: npt.NDArray[Any], below_YX: Labels | None) -> Links:
        """Count the segments."""
        return Links(int(labels_YX.max(initial=0)))

    def take(self, links: Links) -> None:
        """Count the nodes."""
        self._nodes += links.count

    def components(self) -> Nodes:
        """Return a number for each node."""
        return np.arange(self._nodes, dtype=np.int64)


class MutualOverlap(Linker):
    """Links by `mutual_best`; a component has one segment a section at most."""

    def __init__(self) -> None:
        super().__init__()
        self._components: list[Nodes] = []
        self._next = 0

    def links(self, labels_YX: Labels, probability_YX: npt.NDArray[Any], below_YX: Labels | None) -> Links:
        """Find the mutual best overlaps with the section below."""
        count = int(labels_YX.max(initial=0))
        if below_YX is None:
            return Links(count)
        return Links(count, between=np.stack(mutual_best(overlaps(below_YX, labels_YX)), axis=1))

    def take(self, links: Links) -> None:
        """Hand components on from one section to the next; new ones begin where there is no link."""
        mine = np.full(links.count, -1, np.int64)
        if len(links.between):
            lower, upper = links.between.T
            mine[upper - 1] = self._components[-1][lower - 1]
        new = mine < 0
        mine[new] = self._next + np.arange(np.count_nonzero(new))
        self._next += int(np.count_nonzero(new))
        self._components.append(mine)

    def components(self) -> Nodes:
        """Return the component of each node."""
        return np.concatenate([np.empty(0, np.int64), *self._components])


def linker(link: Link, threshold: float) -> Linker:
    """Return a linker by its name.

    Parameters
    ----------
    link : {"none", "overlap", "multicut"}
        Which.
    threshold : float
        Of the segments; the multicut's costs are relative to it.
    """
    if link == "multicut":
        from isbi_infer.neurons.multicut import Multicut

        return Multicut(threshold)
    return MutualOverlap() if link == "overlap" else Unlinked()
