"""What one section costs on this machine: for the report only, never for a decision."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Mapping
from math import inf
from typing import TypeVar

import numpy as np
import torch

from isbi_export.proof.runners import Runner
from isbi_export.synthetic import synthetic_sections
from isbi_infer.pixels.mending import normalising_section
from isbi_infer.plan.tiles import plan_section, read_mirrored

SIDE, ROUNDS = 512, 5


Key = TypeVar("Key", bound=Hashable)


def milliseconds_per_section(
    runs: Mapping[Key, Runner],
    *,
    stride: int,
    border: int,
    channels: int = 1,
    on_gpu: Collection[Key] = (),
    **_: int,
) -> dict[Key, float]:
    """Measure the processor time of a section of 512 x 512 pixels in one thread, from grey values to probabilities.

    On an idle machine that is the time it takes; on a busy one it does not count the others.

    Parameters
    ----------
    runs : mapping of hashable to callable
        What computes. They take turns, so that what else the machine does meets all of them.
    on_gpu : collection of hashable
        Which of them a GPU computes: of these the time that passes is measured, since the processor only waits.
    stride, border : int
        Padding, as in `isbi_infer.plan.tiles.plan_section`.
    channels : int
        Sections that the network sees.

    Returns
    -------
    dict of hashable to float
        The best of `ROUNDS` runs, after one more, in milliseconds.
    """
    section_YX = synthetic_sections(1, SIDE)[0][0]
    plan = plan_section(section_YX.shape, stride=stride, halo=0, border=border)
    padded_YX = read_mirrored(section_YX, plan.pad, plan.tiles[0].reads)
    padded_NCYX = np.stack([padded_YX] * channels)[None]
    statistics = ((normalising_section(section_YX),) * channels,)
    best = dict.fromkeys(runs, inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(1 + ROUNDS):
            for key, run in runs.items():
                clock = time.perf_counter if key in on_gpu else time.process_time
                started = clock()
                run(padded_NCYX, statistics)
                if turn:
                    best[key] = min(best[key], 1000 * (clock() - started))
    finally:
        torch.set_num_threads(threads)
    return best
