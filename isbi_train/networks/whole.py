"""The whole-image result of a network in torch, with the preprocessing that ships."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from isbi_infer.pixels.normalise import normalise
from isbi_infer.plan.neighbours import Stacked
from isbi_infer.plan.tiles import plan_section, read_mirrored
from isbi_infer.run.tissue import Tissue, stand_ins
from isbi_train.networks.network import UNet

SURELY_MEMBRANE = -110.0  # of which the sigmoid is 0 in float32


def predict_whole(
    network: nn.Module,
    image_ZYX: npt.NDArray[np.generic],
    *,
    stride: int,
    border: int,
    only: Sequence[int] | None = None,
    runs: Sequence[slice] = (),
) -> npt.NDArray[np.float32]:
    """Run the network once over each whole section, of which it may see the neighbours.

    Parameters
    ----------
    network : Module
        From normalised grey values to logits, in evaluation mode.
    image_ZYX : ndarray, shape (Z, Y, X)
        Grey values as stored.
    stride, border : int
        Padding, as in `isbi_infer.plan.tiles.plan_section`.
    only : sequence of int, optional
        Numbers of the sections that are wanted, ascending; all when not given.
    runs : sequence of slice
        Sections that follow each other, where not all do, see `isbi_train.data.labelled.LabelledStack.runs`: each of
        these is a stack of its own.

    Returns
    -------
    ndarray of float32, shape (Z, Y, X), or of those that are wanted
        Logits; positive means cell interior. Where there is no tissue, so negative that the probability is 0.
    """
    neighbours = network.config.neighbours if isinstance(network, UNet) else 0
    wanted = range(len(image_ZYX)) if only is None else only
    run = slice(0, 0)
    stack = _stacked(image_ZYX, neighbours)
    out_ZYX = np.full((len(wanted), *image_ZYX.shape[1:]), SURELY_MEMBRANE, np.float32)
    for z, out_YX in zip(wanted, out_ZYX, strict=True):
        if z >= run.stop:
            run = next((run for run in runs if run.start <= z < run.stop), slice(0, len(image_ZYX)))
            stack = _stacked(image_ZYX[run], neighbours)
        seen = stack.around(z - run.start, run.stop - run.start)
        assert seen is not None
        tissue = seen[neighbours]
        if tissue.found.blank:
            continue
        logits_YX, canvas_YX = (
            tissue_logits(network, seen, stride=stride, border=border),
            tissue.found.canvas_YX,
        )
        box = tissue.found.box
        out_YX[box] = logits_YX if canvas_YX is None else np.where(canvas_YX[box], SURELY_MEMBRANE, logits_YX)
    return out_ZYX


def _stacked(image_ZYX: npt.NDArray[np.generic], neighbours: int) -> Stacked[Tissue]:
    return Stacked(lambda z: Tissue.of(image_ZYX[z]), neighbours)


def tissue_logits(
    network: nn.Module, seen: Sequence[Tissue], *, stride: int, border: int
) -> npt.NDArray[np.float32]:
    """Run the network once over the whole tissue of a section.

    Parameters
    ----------
    network, stride, border
        As for `predict_whole`.
    seen : sequence of Tissue
        Of a section that is not blank, in the middle, and of the neighbours that the network sees.

    Returns
    -------
    ndarray of float32, of the shape of the section's ``pixels_YX``
        What the network returns.
    """
    device = next(network.parameters()).device
    plan = plan_section(seen[len(seen) // 2].pixels_YX.shape, stride=stride, halo=0, border=border)
    (tile,) = plan.tiles
    padded = [
        read_mirrored(normalise(seen[place].pixels_YX, seen[place].statistics), plan.pad, tile.reads)
        for place in stand_ins([tissue.found for tissue in seen])
    ]
    with torch.inference_mode():
        logits_NCYX = network(torch.from_numpy(np.stack(padded))[None].to(device))
    logits_YX: npt.NDArray[np.float32] = logits_NCYX[0, 0].float().cpu().numpy()[tile.crop]
    return logits_YX
