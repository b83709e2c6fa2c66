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

from isbi_infer.neurons.linking import Nodes, overlaps
from isbi_infer.neurons.segments import Labels

SHARE = 0.2  # of the smaller segment, from which two overlapping ones attract each other
AREA = 0.01  # weight of a shared pixel
LENGTH = 0.1  # weight of a pixel of line
_GAPS = (1, 2)  # pixels of line between two segments that touch

Costs = npt.NDArray[np.float64]


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


class Multicut:
    """Links by `partition`; keeps the graph, and two sections.

    Parameters
    ----------
    threshold : float
        Of the segments: on a line of this probability two segments neither attract nor repel each other.
    share : float
        See `SHARE`.
    """

    def __init__(self, threshold: float, *, share: float = SHARE) -> None:
        self._threshold, self._share = threshold, share
        self._below: Labels | None = None
        self._areas_below = np.empty(0, np.int64)
        self._nodes = 0
        self._edges: list[Nodes] = []
        self._costs: list[Costs] = []

    def add(self, labels_YX: Labels, probability_YX: npt.NDArray[Any]) -> None:
        """Add the segments of a section to the graph."""
        areas = np.bincount(labels_YX.ravel())
        offset = self._nodes - 1  # of a label in this section
        self._nodes += len(areas) - 1
        pairs, lengths, mean = _borders(labels_YX, probability_YX)
        self._keep(pairs + offset, LENGTH * lengths * (_log_odds(mean) - _log_odds(self._threshold)))
        if self._below is not None:
            found = overlaps(self._below, labels_YX)
            share = found.pixels / np.minimum(self._areas_below[found.lower], areas[found.upper])
            below = found.lower + offset - (len(self._areas_below) - 1)
            costs = AREA * found.pixels * (_log_odds(share) - _log_odds(self._share))
            self._keep(np.stack([below, found.upper + offset], axis=1), costs)
        self._below, self._areas_below = labels_YX, areas

    def components(self) -> Nodes:
        """Solve the multicut; return the component of each node."""
        edges = np.concatenate([np.empty((0, 2), np.int64), *self._edges])
        return partition(self._nodes, edges, np.concatenate([np.empty(0), *self._costs]))

    def _keep(self, edges: Nodes, costs: Costs) -> None:
        self._edges.append(edges)
        self._costs.append(costs)


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
