"""Affinities as a second thing to learn: whether two pixels, some way apart, lie in one cell.

Whether there is membrane at a pixel can mostly be told from what is next to it; whether two pixels far apart belong
together cannot, so that a network which has to say it learns what cells look like as a whole. That is done by a head of
its own, on the same features, which training drops in the end: what is exported has no part of it.

Source: Lee, Zung, Li, Jain and Seung 2017, Superhuman Accuracy on the SNEMI3D Connectomics Challenge,
arXiv:1706.00120. There, as auxiliary targets, in three dimensions and from ids; here within crops of sections, where
cells are the 4-connected components of the label, so that every kind of label will do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from isbi_train.training.losses import has_counted

REACHES_PX = (
    8,
    16,
    32,
)  # down and to the right each: at 5 nm 40 to 160 nm, of a membrane's width to that of a neurite


def cells(label_N1YX: Tensor) -> Tensor:
    """Find the cells of each crop.

    Parameters
    ----------
    label_N1YX : Tensor of shape (N, 1, Y, X)
        1 = cell interior, 0 = membrane.

    Returns
    -------
    Tensor of int64, shape (N, Y, X)
        4-connected components of cell interior, from 1; 0 is membrane.
    """
    found = [ndimage.label(label_YX > 0.5)[0] for label_YX in label_N1YX[:, 0].cpu().numpy()]
    return torch.from_numpy(np.stack(found).astype(np.int64)).to(label_N1YX.device)


def affinity_loss(logits_NAYX: Tensor, maps_NKYX: Tensor) -> Tensor:
    """Average the binary cross-entropy of affinities over all pairs of pixels; where one does not count, it is 0.

    Nor does a pair that lies in one cell or in two depending on pixels that do not count.

    Parameters
    ----------
    logits_NAYX : Tensor of shape (N, A, Y / unshuffle, X / unshuffle)
        See `isbi_train.training.heads.WithHeads.forward`.
    maps_NKYX : Tensor of shape (N, K, Y, X)
        See `isbi_train.training.losses.loss`.

    Returns
    -------
    Tensor
        A scalar, float32.
    """
    coarse = maps_NKYX.shape[-1] // logits_NAYX.shape[-1]
    label_N1YX = maps_NKYX[:, :1]
    cell_NYX = cells(label_N1YX)[:, ::coarse, ::coarse]
    counts_NYX, at_most_NYX = torch.ones_like(cell_NYX, dtype=torch.bool), cell_NYX
    if has_counted(maps_NKYX):
        counted_N1YX = maps_NKYX[:, -1:]
        counts_NYX = counted_N1YX[:, 0, ::coarse, ::coarse] > 0.5
        at_most_NYX = cells(torch.maximum(label_N1YX, 1 - counted_N1YX))[:, ::coarse, ::coarse]
    losses = []
    for logits_NYX, (here, there) in zip(logits_NAYX.float().unbind(1), _pairs(coarse), strict=True):
        same_NYX = (cell_NYX[here] == cell_NYX[there]) & (cell_NYX[here] > 0)
        apart_NYX = (at_most_NYX[here] != at_most_NYX[there]) | (at_most_NYX[here] == 0)
        both_NYX = (counts_NYX[here] & counts_NYX[there] & (same_NYX | apart_NYX)).float()
        total = F.binary_cross_entropy_with_logits(
            logits_NYX[here], same_NYX.float(), weight=both_NYX, reduction="sum"
        )
        losses.append(total / max(1, both_NYX.numel()))  # a small crop has no pairs so far apart
    return torch.stack(losses).mean()


def _pairs(coarse: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Give, for each affinity, where a pixel and its partner lie among elements of so many pixels."""
    whole = slice(None)
    for reach_px in REACHES_PX:
        reach = reach_px // coarse
        yield (whole, slice(None, -reach), whole), (whole, slice(reach, None), whole)
    for reach_px in REACHES_PX:
        reach = reach_px // coarse
        yield (whole, whole, slice(None, -reach)), (whole, whole, slice(reach, None))
