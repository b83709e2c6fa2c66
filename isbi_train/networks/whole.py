"""The whole-image result of a network in torch, with the preprocessing that ships."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.plan.tiles import plan_section, read_mirrored


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
        Logits; positive means cell interior.
    """
    device = next(network.parameters()).device
    out_ZYX = np.empty(image_ZYX.shape, np.float32)
    plan = plan_section(image_ZYX.shape[1:], stride=stride, halo=0, border=border)
    (tile,) = plan.tiles
    for section_YX, out_YX in zip(image_ZYX, out_ZYX, strict=True):
        padded_YX = read_mirrored(
            normalise(section_YX, intensity_statistics(section_YX)), plan.pad, tile.reads
        )
        with torch.inference_mode():
            logits_NCYX = network(torch.from_numpy(padded_YX)[None, None].to(device))
        out_YX[tile.owns] = logits_NCYX[0, 0].float().cpu().numpy()[tile.crop]
    return out_ZYX
