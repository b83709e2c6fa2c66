"""Compiled kernels that thin the membrane of a section: components, and the flood between them.

A section is held transposed, one pixel of frame around it, as one flat int32 array::

    -1 -1 -1 -1 -1      columns of the section run along this axis, x outer and y inner,
    -1  1  1  0 -1      so a scan of the array visits the pixels in column-major order,
    -1  1  0  2 -1      and no neighbour of a pixel needs a bounds check
    -1 -1 -1 -1 -1

Values above zero are basins; the others are the constants below. Flooding needs no order among the four
neighbours of a pixel: neighbours that one pixel queues lie on the same colour of the chessboard, as do all
their descendants of one generation, so they never touch and cannot see one another's decision.

Source: Arganda-Carreras et al. 2015, Frontiers in Neuroanatomy 9:142.
"""

from __future__ import annotations

import numpy as np

from isbi_infer.neurons.kernels import compiled

UNDECIDED = 0  # membrane that the flood has not reached
LINE = -1  # decided as border between basins; also the frame
QUEUED = -2  # membrane that waits in the queue


@compiled()
def _find(parent: np.ndarray, label: int) -> int:
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return label


@compiled()
def _label(level: np.ndarray, floor: int, labels: np.ndarray, parent: np.ndarray) -> int:
    """Write provisional labels of the 4-connected components of ``level > floor``.

    ``parent[provisional]`` is then the final label, numbered from 1 in the order of each component's first
    pixel in the scan.

    Parameters
    ----------
    level : uint8 array, shape (rows, columns)
        The section.
    floor : int
        Pixels above it belong to components.
    labels : int32 array, shape ((rows + 2) * (columns + 2),)
        Receives the provisional labels, UNDECIDED elsewhere; its frame must hold LINE.
    parent : int32 array, shape (rows * columns // 2 + 2,)
        Receives the final labels.

    Returns
    -------
    int
        The number of components.
    """
    rows, columns = level.shape
    stride = columns + 2
    provisional = 0
    for row in range(rows):
        start = (row + 1) * stride + 1
        left = LINE
        up_left = LINE
        for column in range(columns):
            k = start + column
            up = labels[k - stride]
            if level[row, column] > floor:
                if left > 0:
                    # with the corner between them set, left and up are one component already
                    if up > 0 and up_left <= 0 and up != left:
                        one, other = _find(parent, left), _find(parent, up)
                        if one < other:
                            parent[other] = one
                        else:
                            parent[one] = other
                elif up > 0:
                    left = up
                else:
                    provisional += 1
                    parent[provisional] = provisional
                    left = provisional
            else:
                left = UNDECIDED
            labels[k] = left
            up_left = up
    components = 0
    for label in range(1, provisional + 1):
        if parent[label] == label:
            components += 1
            parent[label] = components
        else:
            parent[label] = parent[parent[label]]
    return components


@compiled()
def _framed(rows: int, columns: int) -> np.ndarray:
    return np.full((rows + 2) * (columns + 2), LINE, np.int32)


@compiled()
def levels(probabilities_XY: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Count for each pixel how many thresholds it exceeds, strictly and in double precision.

    Parameters
    ----------
    probabilities_XY : float32 or float64 array, shape (columns, rows)
        Probability of cell. NaN exceeds nothing.
    thresholds : float64 array, shape (thresholds,)
        Ascending, fewer than 256.

    Returns
    -------
    uint8 array, shape (columns, rows)
        A pixel is cell at threshold ``t`` where this is above ``t``.
    """
    columns, rows = probabilities_XY.shape
    level_XY = np.zeros((columns, rows), np.uint8)
    for threshold in thresholds:
        for x in range(columns):
            for y in range(rows):
                level_XY[x, y] += np.float64(probabilities_XY[x, y]) > threshold
    return level_XY


@compiled()
def segment_runs(cell_YX: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the ground truth's segments and list each one's pixels as runs of the transposed, framed array.

    Segments are 4-connected, not thinned, and numbered by their first pixel in row-major order.

    Parameters
    ----------
    cell_YX : uint8 array, shape (rows, columns)
        Above zero where the labels say cell.

    Returns
    -------
    start, stop : int32 arrays, shape (runs,)
        First index of each run, and the one after its last, grouped by segment.
    first : int32 array, shape (segments + 1,)
        ``first[i]:first[i + 1]`` are the runs of segment ``i``.
    """
    rows, columns = cell_YX.shape
    labels = _framed(rows, columns)
    parent = np.empty(rows * columns // 2 + 2, np.int32)
    segments = _label(cell_YX, 0, labels, parent)

    first = np.zeros(segments + 2, np.int32)
    for x in range(1, columns + 1):
        for y in range(1, rows + 1):
            label = labels[y * (columns + 2) + x]
            if label > 0 and labels[(y - 1) * (columns + 2) + x] <= 0:
                first[parent[label] + 1] += 1
    first = np.cumsum(first).astype(np.int32)
    start = np.empty(first[-1], np.int32)
    stop = np.empty(first[-1], np.int32)
    for x in range(1, columns + 1):
        run = 0
        for y in range(1, rows + 1):
            label = labels[y * (columns + 2) + x]
            if label <= 0:
                continue
            if labels[(y - 1) * (columns + 2) + x] <= 0:
                run = first[parent[label]]
                first[parent[label]] += 1
                start[run] = x * (rows + 2) + y
            stop[run] = x * (rows + 2) + y + 1
    return start, stop, first[:-1]


def id_runs(ids_YX: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the pixels of each id as runs of the transposed, framed array, as `segment_runs` does for components.

    Parameters
    ----------
    ids_YX : array of integers, shape (rows, columns)
        Ids of cells, 0 = none. An id is one segment here, whether it is in one piece or not.

    Returns
    -------
    start, stop : int32 arrays, shape (runs,)
        First index of each run, and the one after its last, grouped by id.
    first : int32 array, shape (ids + 1,)
        ``first[i]:first[i + 1]`` are the runs of the id that is the i-th in ascending order.
    """
    framed = np.pad(ids_YX.T, 1).ravel()
    changes = np.flatnonzero(framed[1:] != framed[:-1]) + 1
    start, stop = changes[:-1], changes[1:]
    held = framed[start] != 0
    start, stop = start[held], stop[held]
    order = np.argsort(framed[start], kind="stable")
    start, stop = start[order], stop[order]
    _, counts = np.unique(framed[start], return_counts=True)
    first = np.concatenate(([0], np.cumsum(counts)))
    return start.astype(np.int32), stop.astype(np.int32), first.astype(np.int32)


@compiled()
def flood(
    level_XY: np.ndarray, floor: int, labels: np.ndarray, parent: np.ndarray, queue: np.ndarray
) -> tuple[int, int]:
    """Label the basins of ``level_XY > floor`` and thin the membrane between them to lines.

    Parameters
    ----------
    level_XY : uint8 array, shape (columns, rows)
        The transposed section, from :func:`levels`.
    floor : int
        Pixels above it are cell.
    labels : int32 array, shape ((columns + 2) * (rows + 2),)
        Receives basins from 1 in column-major order, and LINE; its frame must hold LINE.
    parent : int32 array, shape (columns * rows // 2 + 2,)
        Scratch.
    queue : int32 array, shape (columns * rows,)
        Scratch.

    Returns
    -------
    basins : int
        At least 1: a section without any cell is one basin.
    lines : int
        Pixels that became LINE.
    """
    columns, rows = level_XY.shape
    stride = rows + 2
    basins = _label(level_XY, floor, labels, parent)
    if basins == 0:
        for x in range(columns):
            labels[(x + 1) * stride + 1 : (x + 1) * stride + 1 + rows] = 1
        return 1, 0

    tail = 0
    for x in range(columns):
        start = (x + 1) * stride + 1
        for k in range(start, start + rows):
            label = labels[k]
            if label > 0:
                labels[k] = parent[label]
            elif labels[k - 1] > 0 or labels[k + 1] > 0 or labels[k - stride] > 0 or labels[k + stride] > 0:
                labels[k] = QUEUED
                queue[tail] = k
                tail += 1

    lines = 0
    head = 0
    while head < tail:
        k = queue[head]
        head += 1
        basin = UNDECIDED
        alone = True
        for step in (-stride, -1, 1, stride):
            label = labels[k + step]
            if label == UNDECIDED:
                labels[k + step] = QUEUED
                queue[tail] = k + step
                tail += 1
            alone &= (label <= 0) | (basin <= 0) | (label == basin)
            basin = max(basin, label)
        alone &= basin > 0
        labels[k] = basin if alone else LINE
        lines += not alone
    return basins, lines
