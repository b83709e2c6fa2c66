"""What tiles cost in exactness: the largest error near seams for every halo, measured on the synthetic sample."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, log10

import numpy as np

from isbi_export.proof.runners import Pixels, Runner
from isbi_export.synthetic import synthetic_sections
from isbi_infer.pixels.mending import normalising_section
from isbi_infer.pixels.probability import decode
from isbi_infer.plan.tiles import SectionPlan, plan_section, read_mirrored


def seam_errors(run: Runner, *, stride: int, halo: int, border: int, channels: int = 1) -> dict[int, float]:
    """Measure the largest difference of a probability from the whole-image result, for every halo up to the exact one.

    Parameters
    ----------
    run : callable
        What computes; see `isbi_export.proof.runners.Runner`.
    stride, halo, border : int
        Of the network; see `isbi_infer.plan.tiles.plan_section`.
    channels : int
        Sections that it sees: one in the middle of its neighbours.

    Returns
    -------
    dict of int to float
        By the halo's pixels; the last is of `halo` itself, 0 where tiles are exact to the bit.
    """
    return _errors(run, range(0, halo + 1, stride), stride, halo, border, channels)


def tile_error(run: Runner, *, stride: int, halo: int, border: int, channels: int = 1) -> float:
    """Measure the last of `seam_errors` alone: how far tiles with the exact halo are from the whole-image result."""
    return _errors(run, (halo,), stride, halo, border, channels)[halo]


def _errors(
    run: Runner, halos: Iterable[int], stride: int, halo: int, border: int, channels: int
) -> dict[int, float]:
    side = max(512, 4 * halo)
    section_CYX = synthetic_sections(channels, side)[0]

    def result(halo_px: int, tile: int | None) -> Pixels:
        plan = plan_section((side, side), stride=stride, halo=halo_px, border=border, tile=tile)
        return decode(segment(run, section_CYX, plan))

    whole_YX = result(halo, None)
    errors = {}
    for halo_px in halos:
        tile = -(-(side + 2 * border) // (3 * stride)) * stride + 2 * halo_px
        errors[halo_px] = float(np.abs(result(halo_px, tile) - whole_YX).max())
    return errors


def segment(run: Runner, section_CYX: Pixels, plan: SectionPlan) -> Pixels:
    """Compute one section, among the neighbours that the network sees, tile by tile.

    Parameters
    ----------
    run : callable
        What computes; see `isbi_export.proof.runners.Runner`.
    section_CYX : ndarray, shape (C, Y, X)
        Grey values as stored.
    plan : SectionPlan
        Its tiles.

    Returns
    -------
    ndarray of float32 or uint8, shape (Y, X)
        As `run` returns it.
    """
    statistics = (tuple(map(normalising_section, section_CYX)),)
    out_YX: Pixels | None = None
    for tile in plan.tiles:
        tile_CYX = np.stack([read_mirrored(section_YX, plan.pad, tile.reads) for section_YX in section_CYX])
        result_YX = run(tile_CYX[None], statistics)[0, 0]
        if out_YX is None:
            out_YX = np.empty(section_CYX.shape[1:], result_YX.dtype)
        out_YX[tile.owns] = result_YX[tile.crop]
    assert out_YX is not None
    return out_YX


def contract_errors(errors: dict[int, float], halo: int) -> dict[str, float]:
    """Return the errors of halos below the exact one as a contract holds them, rounded up to two digits."""
    return {str(halo_px): rounded_up(error) for halo_px, error in errors.items() if halo_px < halo}


def rounded_up(error: float) -> float:
    """Round up to two digits, so that processors that differ in the last bits agree."""
    if error == 0:
        return 0.0
    unit = 10.0 ** (floor(log10(error)) - 1)
    return round(float(np.ceil(error / unit)) * unit, 12)
