"""Links by a multicut of the graph of all segments, solved by bioimage-cpp.

An edge's cost is positive where its two segments belong together. Between neighbouring sections it is the shared area
times the log-odds of the smaller one's share in it, relative to `SHARE`; within a section it is the length of the line
between two segments times the mean log-odds of cell on it, relative to the threshold: so membrane keeps parts what
overlaps alone would join. The solution is greedy additive contraction bettered by Kernighan and Lin's moves, without
chance.

Source: Beier et al. 2017, Multicut brings automated neurite segmentation closer to human performance, Nature Methods
14:101-102.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.neurons.linking import Costs, Linker, Links, Nodes, overlaps
from isbi_infer.neurons.segments import Labels

SHARE = 0.2  # of the smaller segment, from which two overlapping ones attract each other
AREA = 0.01  # weight of a shared pixel
LENGTH = 0.1  # weight of a pixel of line
_GAPS = (1, 2)  # pixels of line between two segments that touch


def partition(nodes: int, edges: npt.NDArray[Any], costs: npt.NDArray[Any]) -> Nodes:
    """Part the nodes of a graph so that the costs of the edges that are cut sum up to as little as can be found.

    Parameters
    ----------
    nodes : int
        Their number.
    edges : array of integers, shape (edges, 2)
        Pairs of nodes, the lower one first, none twice.
    costs : array of floats, shape (edges,)
        Positive where two nodes belong together.

    Returns
    -------
    int64 array, shape (nodes,)
        The part of each node.
    """
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.multicut import KernighanLinMulticut, MulticutObjective

    if not len(edges):
        return np.arange(nodes, dtype=np.int64)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    graph = UndirectedGraph.from_unique_edges(nodes, np.ascontiguousarray(edges[order], np.uint64))
    objective = MulticutObjective(graph, np.ascontiguousarray(costs[order], np.float64))
    return np.asarray(KernighanLinMulticut().optimize(objective)).astype(np.int64)


class Multicut(Linker):
    """Links by `partition`; keeps the graph.

    Parameters
    ----------
    threshold : float
        Of the segments: on a line of this probability two segments neither attract nor repel each other.
    share : float
        See `SHARE`.
    """

    def __init__(self, threshold: float, *, share: float = SHARE) -> None:
        super().__init__()
        self._threshold, self._share = threshold, share
        self._nodes = self._nodes_below = 0
        self._edges: list[Nodes] = []
        self._costs: list[Costs] = []

    def links(self, labels_YX: Labels, probability_YX: npt.NDArray[Any], below_YX: Labels | None) -> Links:
        """Return the edges of a section, and those to the section below, with their costs."""
        areas = np.bincount(labels_YX.ravel())
        pairs, lengths, mean = _borders(labels_YX, probability_YX)
        costs = LENGTH * lengths * (_log_odds(mean) - _log_odds(self._threshold))
        if below_YX is None:
            return Links(len(areas) - 1, pairs, costs)
        found = overlaps(below_YX, labels_YX)
        share = found.pixels / np.minimum(np.bincount(below_YX.ravel())[found.lower], areas[found.upper])
        between_costs = AREA * found.pixels * (_log_odds(share) - _log_odds(self._share))
        return Links(
            len(areas) - 1, pairs, costs, np.stack([found.lower, found.upper], axis=1), between_costs
        )

    def take(self, links: Links) -> None:
        """Add the segments of a section to the graph."""
        offset = self._nodes - 1  # of a label in this section
        self._edges += [links.within + offset, links.between + np.array([offset - self._nodes_below, offset])]
        self._costs += [links.within_costs, links.between_costs]
        self._nodes_below = links.count
        self._nodes += links.count

    def components(self) -> Nodes:
        """Solve the multicut; return the component of each node."""
        edges = np.concatenate([np.empty((0, 2), np.int64), *self._edges])
        return partition(self._nodes, edges, np.concatenate([np.empty(0), *self._costs]))


def _borders(labels_YX: Labels, probability_YX: npt.NDArray[Any]) -> tuple[Nodes, Costs, Costs]:
    """Return the pairs of segments on both sides of a line, its pixels, and the mean probability on it."""
    lower, upper, on_line = [], [], []
    for labels, probability in ((labels_YX, probability_YX), (labels_YX.T, probability_YX.T)):
        for gap in _GAPS:
            one, other = labels[: -gap - 1].astype(np.int64), labels[gap + 1 :].astype(np.int64)
            apart = (one > 0) & (other > 0) & (one != other)
            for step in range(1, gap + 1):
                apart &= labels[step : len(labels) - gap - 1 + step] == 0
            lower.append(np.minimum(one, other)[apart])
            upper.append(np.maximum(one, other)[apart])
            on_line.append(probability[1 : len(labels) - gap][apart].astype(np.float64))
    width = np.int64(labels_YX.max(initial=0)) + 1
    codes, of, lengths = np.unique(
        np.concatenate(lower) * width + np.concatenate(upper), return_inverse=True, return_counts=True
    )
    mean = np.bincount(of, np.concatenate(on_line), minlength=len(codes)) / np.maximum(lengths, 1)
    return np.stack([codes // width, codes % width], axis=1), lengths.astype(np.float64), mean


def _log_odds(probability: npt.ArrayLike) -> Costs:
    p = np.clip(np.asarray(probability, np.float64), 0.001, 0.999)
    odds: Costs = np.log(p / (1 - p))
    return odds
