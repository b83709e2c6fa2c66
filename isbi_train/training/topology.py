"""A loss of gaps: how much of the membranes' skeleton is found, and how much of what is found lies along membranes.

A gap of a few pixels in a membrane merges two cells, and costs next to nothing in a loss that counts pixels; of the
skeleton it is the same share as of the membrane's length.

Source: Shit, Paetzold, Sekuboyina, Ezhov, Unger, Zhylka, Pluim, Bauer and Menze 2021, clDice - a Novel
Topology-Preserving Loss Function for Tubular Structure Segmentation, CVPR.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from isbi_train.training.losses import has_counted

# Pixels off either side: membranes of up to 18 pixels are thinned, 30 nm at 5 nm and magnified 2.5 times are 15.
_EROSIONS = 8
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
        Near 1 on the middle lines of what was near 1; 0 elsewhere, and on membranes too wide for so many erosions.
    """
    skeleton_N1YX = F.relu(membrane_N1YX - _opened(membrane_N1YX))
    for _ in range(erosions):
        membrane_N1YX = _eroded(membrane_N1YX)
        ridge_N1YX = F.relu(membrane_N1YX - _opened(membrane_N1YX))
        skeleton_N1YX = skeleton_N1YX + F.relu(ridge_N1YX - skeleton_N1YX * ridge_N1YX)
    return skeleton_N1YX


def cldice_loss(logits_N1YX: Tensor, maps_NKYX: Tensor) -> Tensor:
    """Average 1 - clDice of the membranes over the crops of a batch.

    Parameters
    ----------
    logits_N1YX : Tensor of shape (N, 1, Y, X)
        Of cell interior.
    maps_NKYX : Tensor of shape (N, K, Y, X)
        See `isbi_train.training.losses.loss`. The skeleton on pixels that do not count is left out; what is predicted
        there still shapes the skeleton beside them.

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
    along_N = _share(skeleton_N1YX, label_N1YX)
    of_all_N = _share(middle_N1YX, found_N1YX)
    return (1 - 2 * along_N * of_all_N / (along_N + of_all_N)).mean()


def _share(skeleton_N1YX: Tensor, membrane_N1YX: Tensor) -> Tensor:
    """Return how much of each crop's skeleton lies on membranes, of shape (N,)."""
    on_N = (skeleton_N1YX * membrane_N1YX).sum((1, 2, 3))
    return (on_N + _SMOOTH) / (skeleton_N1YX.sum((1, 2, 3)) + _SMOOTH)


def _eroded(values_N1YX: Tensor) -> Tensor:
    """Take the minimum over a pixel and its four neighbours."""
    down_N1YX = -F.max_pool2d(-values_N1YX, (3, 1), 1, (1, 0))
    across_N1YX = -F.max_pool2d(-values_N1YX, (1, 3), 1, (0, 1))
    return down_N1YX.minimum(across_N1YX)


def _opened(values_N1YX: Tensor) -> Tensor:
    return F.max_pool2d(_eroded(values_N1YX), 3, 1, 1)
