"""What one section costs on this machine: for the report only, never for a decision."""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import inf

import torch

from isbi_export.proof.runners import Runner
from isbi_export.synthetic import synthetic_sections
from isbi_export.variants import Variant
from isbi_infer.pixels.normalise import intensity_statistics
from isbi_infer.plan.tiles import plan_section, read_mirrored

SIDE, ROUNDS = 512, 5


def milliseconds_per_section(
    runs: Mapping[Variant, Runner], *, stride: int, border: int, **_: int
) -> dict[Variant, float]:
    """Measure the processor time of a section of 512 x 512 pixels in one thread, from grey values to probabilities.

    On an idle machine that is the time it takes; on a busy one it does not count the others.

    Parameters
    ----------
    runs : mapping of Variant to callable
        What computes. They take turns, so that what else the machine does meets all of them.
    stride, border : int
        Padding, as in `isbi_infer.plan.tiles.plan_section`.

    Returns
    -------
    dict of Variant to float
        The best of `ROUNDS` runs, after one more, in milliseconds.
    """
    section_YX = synthetic_sections(1, SIDE)[0][0]
    plan = plan_section(section_YX.shape, stride=stride, halo=0, border=border)
    padded_NCYX = read_mirrored(section_YX, plan.pad, plan.tiles[0].reads)[None, None]
    statistics = (intensity_statistics(section_YX),)
    best = dict.fromkeys(runs, inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(1 + ROUNDS):
            for variant, run in runs.items():
                started = time.process_time()
                run(padded_NCYX, statistics)
                if turn:
                    best[variant] = min(best[variant], 1000 * (time.process_time() - started))
    finally:
        torch.set_num_threads(threads)
    return best
