"""The scores of a network on held-out sections."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from isbi_infer.errors import ModelError
from isbi_train.data.labelled import LabelledStack
from isbi_train.networks.whole import predict_whole
from isbi_train.scores.metrics import thinned_scores


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
