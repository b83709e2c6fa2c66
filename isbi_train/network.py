"""The U-Net: padded 3x3 convolutions, BatchNorm, ReLU, transposed-convolution upsampling.

Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI.
The network has no global operation, so its output at a pixel depends on a bounded neighbourhood only: that is
what makes exact tiling possible.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isbi_train.config import NetworkConfig


class ConvBlock(nn.Sequential):
    """Twice a 3x3 convolution, BatchNorm and ReLU, at constant size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """A U-Net from normalised grey values to logits of "cell interior".

    Parameters
    ----------
    config : NetworkConfig
        Width, depth, input folding and dropout.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        folded = config.unshuffle**2
        self.fold: nn.Module = nn.PixelUnshuffle(config.unshuffle)
        widths = [config.base * 2**level for level in range(config.depth + 1)]
        self.encoder = nn.ModuleList(
            ConvBlock(before, after)
            for before, after in zip([folded, *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottom = ConvBlock(widths[-2], widths[-1])
        self.dropout: nn.Module = nn.Dropout2d(config.dropout)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in reversed(widths[:-1])
        )
        self.decoder = nn.ModuleList(ConvBlock(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(config.base, folded, 1)
        self.unfold: nn.Module = nn.PixelShuffle(config.unshuffle)
        self._initialise()

    def _initialise(self) -> None:
        """He et al. 2015, "Delving Deep into Rectifiers", ICCV."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=1e-2)

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        image_NCYX : Tensor of shape (N, 1, Y, X)
            Normalised grey values; Y and X are multiples of ``config.stride``.

        Returns
        -------
        Tensor of shape (N, 1, Y, X)
            Logits; positive means cell interior.
        """
        x_NCYX = self.fold(image_NCYX)
        skips = []
        for block in self.encoder:
            x_NCYX = block(x_NCYX)
            skips.append(x_NCYX)
            x_NCYX = F.max_pool2d(x_NCYX, 2)
        x_NCYX = self.dropout(self.bottom(x_NCYX))
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            x_NCYX = block(torch.cat((skips.pop(), upsample(x_NCYX)), dim=1))
        logits_NCYX: Tensor = self.unfold(self.head(x_NCYX))
        return logits_NCYX
