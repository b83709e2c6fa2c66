"""A loss of gaps: how much of the membranes' skeleton is found, and how much of what is found lies along membranes.

A gap of a few pixels in a membrane merges two cells, and costs next to nothing in a loss that counts pixels; of the
skeleton, which is one pixel wide, it is as much as of the membrane's length.

Source: Shit, Paetzold, Sekuboyina, Ezhov, Unger, Zhylka, Pluim, Bauer and Menze 2021, clDice - a Novel
Topology-Preserving Loss Function for Tubular Structure Segmentation, CVPR.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from isbi_train.training.losses import has_counted

_EROSIONS = 5  # a membrane of twice that many pixels is thinned to its middle
_SMOOTH = 1.0  # pixels, so that crops without membranes have a loss


def soft_skeleton(membrane_N1YX: Tensor, erosions: int = _EROSIONS) -> Tensor:
    """Thin membranes to their middle by minima and maxima over neighbours, which gradients pass.

    Parameters
    ----------
    membrane_N1YX : Tensor of shape (N, 1, Y, X)
        Probabilities.
    erosions : int
        Pixels that are taken off either side at most.

    Returns
    -------
    Tensor of shape (N, 1, Y, X)
        Near 1 on the middle lines of what was near 1; 0 elsewhere.
    """
    skeleton_N1YX = F.relu(membrane_N1YX - _opened(membrane_N1YX))
    for _ in range(erosions):
        membrane_N1YX = _eroded(membrane_N1YX)
        ridge_N1YX = F.relu(membrane_N1YX - _opened(membrane_N1YX))
        skeleton_N1YX = skeleton_N1YX + F.relu(ridge_N1YX - skeleton_N1YX * ridge_N1YX)
    return skeleton_N1YX


def cldice_loss(logits_N1YX: Tensor, maps_NKYX: Tensor) -> Tensor:
    """Return 1 - clDice of the membranes, over a batch.

    Parameters
    ----------
    logits_N1YX : Tensor of shape (N, 1, Y, X)
        Of cell interior.
    maps_NKYX : Tensor of shape (N, K, Y, X)
        See `isbi_train.training.losses.loss`. Pixels that do not count are neither membrane nor false.

    Returns
    -------
    Tensor
        A scalar, float32, within 0..1.
    """
    found_N1YX = (-logits_N1YX.float()).sigmoid()
    label_N1YX = 1 - maps_NKYX[:, :1]
    skeleton_N1YX = soft_skeleton(found_N1YX)
    if has_counted(maps_NKYX):
        counts_N1YX = maps_NKYX[:, -1:]
        label_N1YX, skeleton_N1YX = label_N1YX * counts_N1YX, skeleton_N1YX * counts_N1YX
    middle_N1YX = soft_skeleton(label_N1YX)
    along = ((skeleton_N1YX * label_N1YX).sum() + _SMOOTH) / (skeleton_N1YX.sum() + _SMOOTH)
    of_all = ((middle_N1YX * found_N1YX).sum() + _SMOOTH) / (middle_N1YX.sum() + _SMOOTH)
    return 1 - 2 * along * of_all / (along + of_all)


def _eroded(values_N1YX: Tensor) -> Tensor:
    """Take the minimum over a pixel and its four neighbours."""
    down_N1YX = -F.max_pool2d(-values_N1YX, (3, 1), 1, (1, 0))
    across_N1YX = -F.max_pool2d(-values_N1YX, (1, 3), 1, (0, 1))
    return down_N1YX.minimum(across_N1YX)


def _opened(values_N1YX: Tensor) -> Tensor:
    return F.max_pool2d(_eroded(values_N1YX), 3, 1, 1)
