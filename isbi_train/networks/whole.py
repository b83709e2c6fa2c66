"""The whole-image result of a network in torch, with the preprocessing that ships."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from isbi_infer.pixels.normalise import normalise
from isbi_infer.plan.tiles import plan_section, read_mirrored
from isbi_infer.run.tissue import Tissue

_SURELY_MEMBRANE = -110.0  # of which the sigmoid is 0 in float32


def predict_whole(
    network: nn.Module, image_ZYX: npt.NDArray[np.generic], *, stride: int, border: int
) -> npt.NDArray[np.float32]:
    """Run the network once over each whole section.

    Parameters
    ----------
    network : Module
        From normalised grey values to logits, in evaluation mode.
    image_ZYX : ndarray, shape (Z, Y, X)
        Grey values as stored.
    stride, border : int
        Padding, as in `isbi_infer.plan.tiles.plan_section`.

    Returns
    -------
    ndarray of float32, shape (Z, Y, X)
        Logits; positive means cell interior. Where there is no tissue, so negative that the probability is 0.
    """
    out_ZYX = np.full(image_ZYX.shape, _SURELY_MEMBRANE, np.float32)
    for section_YX, out_YX in zip(image_ZYX, out_ZYX, strict=True):
        tissue = Tissue.of(section_YX)
        if tissue.found.blank:
            continue
        logits_YX, canvas_YX = (
            tissue_logits(network, tissue, stride=stride, border=border),
            tissue.found.canvas_YX,
        )
        box = tissue.found.box
        out_YX[box] = (
            logits_YX if canvas_YX is None else np.where(canvas_YX[box], _SURELY_MEMBRANE, logits_YX)
        )
    return out_ZYX


def tissue_logits(network: nn.Module, tissue: Tissue, *, stride: int, border: int) -> npt.NDArray[np.float32]:
    """Run the network once over the whole tissue of a section.

    Parameters
    ----------
    network, stride, border
        As for `predict_whole`.
    tissue : Tissue
        Of a section that is not blank.

    Returns
    -------
    ndarray of float32, of the shape of ``tissue.pixels_YX``
        What the network returns.
    """
    device = next(network.parameters()).device
    plan = plan_section(tissue.pixels_YX.shape, stride=stride, halo=0, border=border)
    (tile,) = plan.tiles
    padded_YX = read_mirrored(normalise(tissue.pixels_YX, tissue.statistics), plan.pad, tile.reads)
    with torch.inference_mode():
        logits_NCYX = network(torch.from_numpy(padded_YX)[None, None].to(device))
    logits_YX: npt.NDArray[np.float32] = logits_NCYX[0, 0].float().cpu().numpy()[tile.crop]
    return logits_YX
