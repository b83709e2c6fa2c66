"""What a smaller halo costs: the largest error near seams, measured on the synthetic sample."""

from __future__ import annotations

from collections.abc import Callable
from math import floor, log10

import numpy as np
import numpy.typing as npt

from isbi_infer.geometry import Plan, plan_section
from isbi_infer.jobs import Settings
from isbi_infer.pipeline import run_sections
from isbi_infer.sample import synthetic_stack
from isbi_infer.symmetry import IDENTITY

Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


class _Backend:
    def __init__(self, run: Run) -> None:
        self._run = run

    def run(
        self, batch_NCYX: npt.NDArray[np.float32], *_: npt.NDArray[np.float32], out: object = None
    ) -> npt.NDArray[np.float32]:
        return self._run(batch_NCYX)

    def stop(self) -> None:
        """Nothing to stop: batches are small."""


def halo_errors(run: Run, *, stride: int, halo: int, border: int) -> dict[str, float]:
    """Measure the largest difference from the whole-image result for every halo below the exact one.

    Parameters
    ----------
    run : callable
        From normalised grey values to probabilities, float32, shape (N, 1, Y, X).
    stride, halo, border : int
        Of the network; see `isbi_infer.geometry.plan_section`.

    Returns
    -------
    dict of str to float
        By the halo's pixels; rounded up to two digits, so that processors that differ in the last bits agree.
    """
    side = max(512, 4 * halo)
    image_ZYX, _ = synthetic_stack(1, side, side)

    def result(halo_px: int, tile: int | None) -> npt.NDArray[np.float32]:
        def plan(shape: tuple[int, int], halvings: int) -> Plan:
            return plan_section(shape, stride=stride, halo=halo_px, border=border, tile=tile)

        settings = Settings(plan=plan, batch=lambda _: 1, lanes=1, symmetries=IDENTITY)
        (result_YX,) = run_sections(image_ZYX, _Backend(run), settings)
        return result_YX

    whole_YX = result(halo, None)
    errors = {}
    for halo_px in range(0, halo, stride):
        tile = -(-(side + 2 * border) // (3 * stride)) * stride + 2 * halo_px
        errors[str(halo_px)] = _rounded_up(float(np.abs(result(halo_px, tile) - whole_YX).max()))
    return errors


def _rounded_up(error: float) -> float:
    if error == 0:
        return 0.0
    unit = 10.0 ** (floor(log10(error)) - 1)
    return round(float(np.ceil(error / unit)) * unit, 12)
