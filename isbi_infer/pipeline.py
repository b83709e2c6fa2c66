"""Sections in, results out: tiles are gathered into batches, computed, cropped, and each section given in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError
from isbi_infer.geometry import Plan, Tile, mirror_pad
from isbi_infer.normalise import intensity_statistics, normalise

Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def run_sections(
    sections: Iterable[npt.NDArray[Any]],
    *,
    run: Run,
    plan: Callable[[tuple[int, int]], Plan],
    batch: Callable[[Plan], int],
) -> Iterator[npt.NDArray[np.float32]]:
    """Compute sections of one shape lazily; tiles of neighbouring sections share batches.

    Parameters
    ----------
    sections : iterable of ndarray, shape (Y, X)
        Grey values, all finite.
    run : callable
        From normalised grey values to probabilities, float32, shape (N, 1, Y, X).
    plan : callable
        From a section's shape to its tiles.
    batch : callable
        From a plan to the number of tiles computed at once.

    Yields
    ------
    ndarray of float32, shape (Y, X)
        One result per section, in order.

    Raises
    ------
    ImageError
        If the sections differ in shape.
    """
    jobs: deque[_SectionJob] = deque()
    queue: list[tuple[_SectionJob, Tile]] = []
    shape: tuple[int, ...] | None = None
    for section_YX in sections:
        if shape not in (None, section_YX.shape):
            raise ImageError(f"sections differ in shape: {shape}, then {section_YX.shape}; split the stack")
        shape = section_YX.shape
        job = _SectionJob(section_YX, plan((shape[0], shape[1])))
        jobs.append(job)
        for tile in job.plan.tiles:
            queue.append((job, tile))
            if len(queue) == batch(job.plan):
                _compute(queue, run)
                queue.clear()
        while jobs and jobs[0].pending == 0:
            yield jobs.popleft().out_YX
    if queue:
        _compute(queue, run)
    yield from (job.out_YX for job in jobs)


class _SectionJob:
    """One section on its way through the tiles: its padded pixels, its statistics, its result."""

    def __init__(self, section_YX: npt.NDArray[Any], plan: Plan) -> None:
        self.plan = plan
        self.pending = len(plan.tiles)
        self.out_YX = np.empty(plan.shape, np.float32)
        self._statistics = intensity_statistics(section_YX)
        self._padded_YX = mirror_pad(section_YX, plan.pad)

    def gather(self, tile: Tile) -> npt.NDArray[np.float32]:
        return normalise(self._padded_YX[tile.reads], self._statistics)

    def scatter(self, tile: Tile, probability_YX: npt.NDArray[np.float32]) -> None:
        self.out_YX[tile.owns] = probability_YX[tile.crop]
        self.pending -= 1


def _compute(queue: list[tuple[_SectionJob, Tile]], run: Run) -> None:
    batch_NCYX = np.stack([job.gather(tile)[None] for job, tile in queue])
    for (job, tile), probability_CYX in zip(queue, run(batch_NCYX), strict=True):
        job.scatter(tile, probability_CYX[0])
