"""Heads that a network has while it is trained: what they learn shapes its features, and none of them is exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isbi_train.config import NetworkConfig, TrainConfig
from isbi_train.config.plain import require
from isbi_train.networks.network import UNet
from isbi_train.training.affinities import REACHES_PX, affinity_loss
from isbi_train.training.losses import loss

AFFINITIES, DEEP = "affinities", "deep"


class WithHeads(nn.Module):
    """A U-Net together with the heads that training drops.

    Parameters
    ----------
    network : UNet
        Its own weights are not changed.
    train : TrainConfig
        Those of which the weight is not 0 are there: ``affinity_weight``, see `isbi_train.training.affinities`, and
        ``deep_weight``, membranes told from each coarser level of the decoder by itself.
    """

    def __init__(self, network: UNet, train: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleDict()
        if train.affinity_weight:
            self.heads[AFFINITIES] = nn.Conv2d(network.config.base, 2 * len(REACHES_PX), 1)
        if train.deep_weight:
            self.heads[DEEP] = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in _coarser(network.config))
        for weights in self.heads.parameters():
            if weights.dim() == 4:
                nn.init.normal_(weights, std=1e-2)

    @classmethod
    def around(cls, network: nn.Module, train: TrainConfig) -> WithHeads | None:
        """Give a network the heads that a run asks for; None where it asks for none, or the network is no U-Net.

        UsageError where the network cannot have them.
        """
        require(
            not train.deep_weight or not isinstance(network, UNet) or network.config.depth > 1,
            "deep_weight needs a network of depth 2 or more, which has coarser levels",
        )
        wanted = train.affinity_weight or train.deep_weight
        return cls(network, train) if wanted and isinstance(network, UNet) else None

    def forward(self, image_NCYX: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Compute logits.

        Parameters
        ----------
        image_NCYX : Tensor of shape (N, C, Y, X)
            Normalised grey values, as the network takes them.

        Returns
        -------
        (Tensor of shape (N, 1, Y, X), dict of str to list of Tensor)
            Logits of "cell interior", and by the name of a head its own: of affinities one of shape
            (N, A, Y / unshuffle, X / unshuffle), "in one cell", of each pixel and of that which lies each of
            `REACHES_PX` below it, then of that to its right; of deep supervision one of shape (N, 1, y, x) for each
            coarser level, from the deepest.
        """
        *coarser, finest = self.network.levels(image_NCYX)
        found: dict[str, list[Tensor]] = {}
        if AFFINITIES in self.heads:
            found[AFFINITIES] = [self.heads[AFFINITIES](finest)]
        if DEEP in self.heads:
            heads = self.heads[DEEP].children()
            found[DEEP] = [head(level) for head, level in zip(heads, coarser, strict=True)]
        return self.network.logits(finest), found


def _coarser(network: NetworkConfig) -> tuple[int, ...]:
    """Return the channels of the decoder's coarser levels, from the deepest."""
    return tuple(reversed(network.widths[1:-1]))


def deep_loss(
    levels: list[Tensor], maps_NKYX: Tensor, membrane_weight: float | Tensor, weight_scale: float
) -> Tensor:
    """Average the loss of what each level says of the pixels under its elements; a finer one counts twice as much.

    Source: Lee, Xie, Gallagher, Zhang and Tu 2015, Deeply-Supervised Nets, AISTATS; weights that are halved from level
    to level as in Isensee et al. 2021, nnU-Net, Nature Methods 18:203-211.

    Parameters
    ----------
    levels : list of Tensor, each of shape (N, 1, y, x)
        Logits, from the deepest level; sizes divide those of the maps.
    maps_NKYX, membrane_weight, weight_scale : Tensor, float or Tensor, float
        See `isbi_train.training.losses.loss`.

    Returns
    -------
    Tensor
        A scalar, float32; 0 where there are no levels.
    """
    total, weights = maps_NKYX.new_zeros(()), 0.0
    for halvings, logits_NCYX in enumerate(reversed(levels)):
        weight = 0.5**halvings
        spread_NCYX = F.interpolate(logits_NCYX.float(), maps_NKYX.shape[-2:], mode="nearest")
        total = total + weight * loss(spread_NCYX, maps_NKYX, membrane_weight, weight_scale)
        weights += weight
    return total / max(weights, 1.0)


def heads_loss(
    found: dict[str, list[Tensor]],
    maps_NKYX: Tensor,
    membrane_weight: float | Tensor,
    train: TrainConfig,
    weight_scale: float,
) -> Tensor:
    """Add up what the heads have to learn, each with its weight.

    Parameters
    ----------
    found : dict of str to list of Tensor
        See `WithHeads.forward`.
    maps_NKYX, membrane_weight, weight_scale : Tensor, float or Tensor, float
        See `isbi_train.training.losses.loss`.
    train : TrainConfig
        Gives the weights.

    Returns
    -------
    Tensor
        A scalar, float32.
    """
    total = torch.zeros((), device=maps_NKYX.device)
    if AFFINITIES in found:
        total = total + train.affinity_weight * affinity_loss(found[AFFINITIES][0], maps_NKYX)
    if DEEP in found:
        total = total + train.deep_weight * deep_loss(found[DEEP], maps_NKYX, membrane_weight, weight_scale)
    return total
