"""The compiled kernel that compares a thinned section with its ground truth.

It calls no kernel of another module: numba's cache on disk sees changes in a kernel's own file only.

Source: Arganda-Carreras et al. 2015, Frontiers in Neuroanatomy 9:142.
"""

from __future__ import annotations

import math

import numpy as np

from isbi_infer.neurons.kernels import compiled


# division by zero must give NaN; fastmath would reorder the sums, which degenerate sections would show
@compiled(error_model="numpy")
def overlap_scores(
    labels: np.ndarray,
    basins: int,
    start: np.ndarray,
    stop: np.ndarray,
    first: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Write Rand and information precision, recall and score of one thinned section.

    Sums run over segments, within them over lines and then basins, in ascending order: where a single basin
    holds everything, an entropy is zero or not by the last bit of a sum, and that bit decides between the
    precision and recall (1, 0) and (0, 1). The score is zero both ways. For the same reason the mutual
    information is taken from the conditional entropies, H(A) - H(A|B) and H(B) - H(B|A).

    Parameters
    ----------
    labels : int32 array
        The thinned section, from :func:`isbi_infer.neurons.thinning.flood`.
    basins : int
        Its number of basins.
    start, stop, first : int32 arrays
        The ground truth, from :func:`isbi_infer.neurons.thinning.segment_runs`.
    scores : float64 array, shape (6,)
        Receives Rand precision, recall, score, then the same of information; NaN without any ground truth.
    """
    total = 0
    for run in range(start.size):
        total += stop[run] - start[run]
    if total == 0:
        scores[:] = np.nan
        return

    count = np.zeros(basins + 1, np.int32)
    touched = np.empty(basins, np.int32)
    b = np.zeros(basins + 1, np.float64)
    on_lines = 0
    s_a, s_b, s_ab = 0.0, 0.0, 0.0
    h_a, h_b, h_ab = 0.0, 0.0, 0.0
    for segment in range(first.size - 1):
        lines = 0
        distinct = 0
        for run in range(first[segment], first[segment + 1]):
            k, end = start[run], stop[run]
            while k < end:
                basin = labels[k]
                begin = k
                k += 1
                while k < end and labels[k] == basin:
                    k += 1
                if basin > 0:
                    if count[basin] == 0:
                        touched[distinct] = basin
                        distinct += 1
                    count[basin] += k - begin
                else:
                    lines += k - begin
        on_lines += lines
        a = lines / total
        touched[:distinct].sort()
        for basin in touched[:distinct]:
            p = count[basin] / total
            count[basin] = 0
            a += p
            b[basin] += p
            s_ab += p * p
            h_ab -= p * math.log(p)
        s_a += a * a
        h_a -= a * math.log(a)
    for p in b:
        if p > 0.0:
            s_b += p * p
            h_b -= p * math.log(p)
    lone = on_lines / total
    s_ab += lone / total
    s_b += lone / total
    h_ab += lone * math.log(total)
    h_b += lone * math.log(total)

    scores[0] = s_ab / s_b
    scores[1] = s_ab / s_a
    scores[2] = 2.0 * s_ab / (s_a + s_b)
    precision = (h_a - (h_ab - h_b)) / h_a
    recall = (h_b - (h_ab - h_a)) / h_b
    if h_a == 0.0:
        precision, recall = 0.0, 1.0
    if h_b == 0.0:
        precision, recall = 1.0, 0.0
    scores[3] = precision
    scores[4] = recall
    scores[5] = 2.0 * precision * recall / (precision + recall)
