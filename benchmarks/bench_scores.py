"""Time of the challenge's scores: five sections of 512 x 512 at eleven thresholds, on one core."""

import numpy as np
import pytest
from scipy import ndimage

from isbi_train.scores.metrics import THRESHOLDS, thinned_scores

SECTIONS, SIZE, CELLS = 5, 512, 250


def synthetic_section(seed, blur):
    """Voronoi cells with membranes 4 to 5 pixels wide, and a proposal that errs where ``blur`` is large."""
    rng = np.random.default_rng(seed)
    centre = np.ones((SIZE, SIZE), bool)
    centre[tuple(rng.integers(0, SIZE, (2, CELLS)))] = False
    y, x = ndimage.distance_transform_edt(centre, return_distances=False, return_indices=True)
    cell = y * SIZE + x
    edge = (cell != np.roll(cell, 1, axis=0)) | (cell != np.roll(cell, 1, axis=1))
    depth = ndimage.distance_transform_edt(~edge)
    error = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 1.5)
    proposal = 1 / (1 + np.exp(2.5 - depth - 40 * blur * error))
    return proposal.astype(np.float32), np.where(depth > 2, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("blur", [0.02, 0.15, 0.5], ids=["clean", "trained", "untrained"])
def test_thinned_scores_on_one_core(benchmark, blur):
    pairs = [synthetic_section(seed, blur) for seed in range(SECTIONS)]
    proposal, labels = (np.stack(images) for images in zip(*pairs, strict=True))
    scores = benchmark.pedantic(
        thinned_scores, (proposal, labels), {"workers": 1}, rounds=10, warmup_rounds=1, iterations=1
    )
    benchmark.extra_info["sections"] = SECTIONS
    benchmark.extra_info["thresholds"] = len(THRESHOLDS)
    benchmark.extra_info["v_rand"] = scores.v_rand
    benchmark.extra_info["v_info"] = scores.v_info
    if benchmark.stats:  # none with --benchmark-disable
        benchmark.extra_info["milliseconds_per_section"] = 1e3 * benchmark.stats.stats.median / SECTIONS
