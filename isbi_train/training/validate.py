"""The whole-image result of a network in training, with the preprocessing that ships, and its scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from isbi_infer.errors import ModelError
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.plan.tiles import plan_section, read_mirrored
from isbi_train.scores.metrics import thinned_scores
from isbi_train.stacks.data import LabelledStack


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


def validate(network: nn.Module, held_out: LabelledStack, *, stride: int, border: int) -> dict[str, Any]:
    """Score a network on held-out sections.

    Parameters
    ----------
    network : Module
        In evaluation mode.
    held_out : LabelledStack
        Sections that training never sees.
    stride, border : int
        Padding, as in `isbi_infer.plan.tiles.plan_section`.

    Returns
    -------
    dict
        ``loss`` (binary cross-entropy), ``v_rand_thin``, ``v_info_thin``; plain types.
    """
    return scores_of(predict_whole(network, held_out.image_ZYX, stride=stride, border=border), held_out)


def scores_of(logits_ZYX: npt.NDArray[np.float32], held_out: LabelledStack) -> dict[str, Any]:
    """Score logits of held-out sections, of shape (Z, Y, X), as `validate` does.

    Raises
    ------
    ModelError
        If some are no numbers.
    """
    if not np.isfinite(logits_ZYX).all():
        raise ModelError(
            "the network gives NaN or infinite logits on the held-out sections; train anew with a lower "
            "learning rate, or with --precision float32"
        )
    logits = torch.from_numpy(logits_ZYX)
    loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(held_out.cell_ZYX).float())
    scores = thinned_scores(torch.sigmoid(logits).numpy(), held_out.cell_ZYX)
    return {"loss": loss.item(), "v_rand_thin": float(scores.v_rand), "v_info_thin": float(scores.v_info)}
