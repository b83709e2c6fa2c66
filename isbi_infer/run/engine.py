"""An opened model with its tiling: what runs sections, whether they come from arrays or files."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.backends.base import Backend
from isbi_infer.pixels.probability import decode
from isbi_infer.pixels.resample import resample
from isbi_infer.plan.scaling import Scaling
from isbi_infer.plan.symmetry import Symmetry
from isbi_infer.plan.tiling import Tiling
from isbi_infer.run.pipeline import run_sections
from isbi_infer.run.section import Settings
from isbi_infer.run.summary import Estimate

Sections = Iterable[npt.NDArray[Any]]
Results = Generator[npt.NDArray[Any], None, None]


@dataclass(frozen=True, slots=True)
class Engine:
    """What computes results of sections.

    Attributes
    ----------
    session : Backend
        The model on its provider.
    tiling : Tiling
        With the model's contract.
    symmetries : tuple of Symmetry
        Views of a section whose results are averaged.
    """

    session: Backend
    tiling: Tiling
    symmetries: tuple[Symmetry, ...]

    def run(self, sections: Sections, shape: tuple[int, ...] | None, scaling: Scaling | None) -> Results:
        """Compute sections of one shape lazily, in order.

        Parameters
        ----------
        sections : iterable of ndarray, shape (Y, X)
            Grey values, all finite.
        shape : tuple of int or None
            (Z, Y, X) of all of them, where it is known.
        scaling : Scaling or None
            To the model's pixel size, and back.

        Yields
        ------
        ndarray of float32 or uint8, shape (Y, X)
            As the model gives them; `isbi_infer.pixels.probability.decode` makes probabilities of them.
        """
        if scaling is None:
            return self._run_as_they_are(sections, shape)
        return self._run_resampled(sections, shape, scaling)

    def _run_resampled(self, sections: Sections, shape: tuple[int, ...] | None, scaling: Scaling) -> Results:
        shapes: deque[tuple[int, int]] = deque()  # of sections on their way

        def noted() -> Iterator[npt.NDArray[Any]]:
            for section_YX in sections:
                shapes.append((section_YX.shape[0], section_YX.shape[1]))
                yield section_YX

        inner = (shape[0], *scaling.inner_shape((shape[1], shape[2]))) if shape else None
        resampled = scaling.apply(noted(), self.tiling.contract.input_dtype)
        with closing(self._run_as_they_are(resampled, inner)) as results:
            for result_YX in results:
                yield resample(decode(result_YX), shapes.popleft())

    def _run_as_they_are(self, sections: Sections, shape: tuple[int, ...] | None) -> Results:
        backend = self.backend(shape)
        settings = Settings(
            plan=self.tiling.plan,
            batch=self.tiling.tiles_per_batch,
            lanes=backend.workers,
            symmetries=self.symmetries,
            fixed_batch=not self.tiling.on_cpu,
            normalised=self.tiling.contract.input_dtype == "float32",
            result_dtype=self.tiling.contract.output_dtype,
        )
        return run_sections(sections, backend, settings)

    def backend(self, shape: tuple[int, ...] | None) -> Backend:
        """Give several lanes, unless the stack (Z, Y, X), where it is known, is work for one call only."""
        if shape is None:
            return self.session
        plan = self.tiling.plan((shape[1], shape[2]))
        tiles = shape[0] * len(plan.tiles) * len(self.symmetries)
        return self.session.on_all_cores() if tiles <= self.tiling.tiles_per_batch(plan) else self.session

    def estimate(
        self, shape: tuple[int, int, int], scaling: Scaling | None, notes: tuple[str, ...]
    ) -> Estimate:
        """Say what a stack (Z, Y, X) would take; one tile is computed to time it."""
        inner = (shape[0], *scaling.inner_shape(shape[1:])) if scaling else shape
        plan = self.tiling.plan(inner[1:])
        batch = self.tiling.tiles_per_batch(plan)
        backend, contract = self.backend(inner), self.tiling.contract
        blank_NCYX = np.zeros((batch, 1, *plan.tile_shape), contract.input_dtype)
        statistics = [np.zeros((batch, 1, 1, 1), np.float32) for _ in contract.statistics_inputs]
        backend.run(blank_NCYX, *statistics)
        started = time.perf_counter()
        backend.run(blank_NCYX, *statistics)
        batches = ceil(shape[0] * len(plan.tiles) * len(self.symmetries) / batch)
        return Estimate(
            provider=self.session.device.name,
            precision=contract.precision,
            shape=shape,
            tile_shape=plan.tile_shape,
            tiles=len(plan.tiles),
            overhead=plan.overhead,
            halo=self.tiling.halo,
            batch=batch,
            lanes=backend.workers,
            memory_bytes=int(prod(plan.tile_shape) * self.tiling.bytes_per_pixel * batch * backend.workers),
            seconds=(time.perf_counter() - started) * ceil(batches / backend.workers),
            notes=notes,
        )
