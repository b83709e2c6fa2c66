"""The whole-image result of a network in torch, with the preprocessing that ships."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from isbi_infer.pixels.mending import normalising, tissue_of
from isbi_infer.pixels.normalise import normalise
from isbi_infer.pixels.statistics import section_statistics
from isbi_infer.plan.tiles import plan_section, read_mirrored

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
    device = next(network.parameters()).device
    out_ZYX = np.full(image_ZYX.shape, _SURELY_MEMBRANE, np.float32)
    for section_YX, out_YX in zip(image_ZYX, out_ZYX, strict=True):
        found = section_statistics(section_YX)
        if found.blank:
            continue
        tissue_YX = tissue_of(section_YX, found)
        plan = plan_section(tissue_YX.shape, stride=stride, halo=0, border=border)
        (tile,) = plan.tiles
        padded_YX = read_mirrored(normalise(tissue_YX, normalising(tissue_YX, found)), plan.pad, tile.reads)
        with torch.inference_mode():
            logits_NCYX = network(torch.from_numpy(padded_YX)[None, None].to(device))
        logits_YX = logits_NCYX[0, 0].float().cpu().numpy()[tile.crop]
        if found.canvas_YX is None:
            out_YX[...] = logits_YX
        else:
            out_YX[found.box] = np.where(found.canvas_YX[found.box], _SURELY_MEMBRANE, logits_YX)
    return out_ZYX
