"""The network as it is deployed: probabilities out, BatchNorm folded, plain convolutions only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from isbi_train.networks.network import ConvBlock, UNet


class Deployable(nn.Module):
    """A U-Net from normalised grey values to probabilities of cell interior, for inference only.

    Parameters
    ----------
    network : UNet
        In evaluation mode; it is changed in place.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__()
        assert not network.training
        for name, module in list(network.named_modules()):
            if isinstance(module, ConvBlock):
                network.set_submodule(name, _without_batch_norm(module))
        # The identity as far as values go, but one standard operation instead of reshapes in the exported graph.
        network.fold = (
            SpaceToDepth(network.config.unshuffle, network.config.channels)
            if network.config.unshuffle > 1
            else nn.Identity()
        )
        network.unfold = network.unfold if network.config.unshuffle > 1 else nn.Identity()
        network.dropout = nn.Identity()
        self.network = network
        self.requires_grad_(False).eval()

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """Compute probabilities.

        Parameters
        ----------
        image_NCYX : Tensor of float32, shape (N, C, Y, X)
            Normalised grey values, as the network takes them; Y and X are multiples of the stride.

        Returns
        -------
        Tensor of float32, shape (N, 1, Y, X)
            1 = cell interior, 0 = membrane.
        """
        return torch.sigmoid(self.network(image_NCYX))


class SpaceToDepth(nn.Conv2d):
    """`torch.nn.PixelUnshuffle`, written as a strided convolution with a fixed kernel.

    Every output value is one input value times 1 plus zeros, so the two agree to the bit.

    Parameters
    ----------
    factor : int
        Side of the blocks that are folded into channels.
    channels : int
        How many there are before, each of which is folded by itself.
    """

    def __init__(self, factor: int, channels: int = 1) -> None:
        folded = factor**2
        super().__init__(channels, channels * folded, factor, stride=factor, bias=False, groups=channels)
        with torch.no_grad():
            kernel = torch.eye(folded).reshape(folded, 1, factor, factor)
            self.weight.copy_(kernel.repeat(channels, 1, 1, 1))


def _without_batch_norm(block: ConvBlock) -> nn.Sequential:
    """Fold each BatchNorm into the convolution before it."""
    layers: list[nn.Module] = []
    for layer in block:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers[-1]
            assert isinstance(convolution, nn.Conv2d)
            layers[-1] = fuse_conv_bn_eval(convolution, layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)
