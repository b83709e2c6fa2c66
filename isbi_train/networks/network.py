"""The U-Net: 3x3 convolutions, BatchNorm, ReLU, transposed-convolution upsampling.

Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI.
The network has no global operation, so its output at a pixel depends on a bounded neighbourhood only: that is
what makes exact tiling possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isbi_train.config import NetworkConfig


class Depthwise(nn.Conv2d):
    """A 3x3 convolution of each channel by itself, without bias; the first half of a separable one.

    Parameters
    ----------
    channels : int
        In and out.
    padding : {0, 1}
        See `ConvBlock`.
    """

    def __init__(self, channels: int, *, padding: int) -> None:
        super().__init__(channels, channels, 3, padding=padding, groups=channels, bias=False)


class ConvBlock(nn.Sequential):
    """Twice a 3x3 convolution, BatchNorm if wanted, and ReLU.

    Parameters
    ----------
    channels_in, channels_out : int
        Of the block.
    padding : {0, 1}
        Zeros around each convolution's input; 1 keeps the size, 0 takes 2 pixels per side off in all.
    batch_norm : bool
        Whether each convolution is followed by BatchNorm, instead of having a bias.
    separable : sequence of bool
        Whether the first one and the second are a `Depthwise` followed by a 1x1.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        padding: int,
        batch_norm: bool,
        separable: Sequence[bool] = (False, False),
    ) -> None:
        layers: list[nn.Module] = []
        for before, split in zip((channels_in, channels_out), separable, strict=True):
            if split:
                layers.append(Depthwise(before, padding=padding))
                layers.append(nn.Conv2d(before, channels_out, 1, bias=not batch_norm))
            else:
                layers.append(nn.Conv2d(before, channels_out, 3, padding=padding, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels_out))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class UNet(nn.Module):
    """A U-Net from normalised grey values to logits of "cell interior".

    With ``arch="unet"`` every convolution is padded with zeros, and sizes stay what poolings and upsamplings make of
    them. With ``arch="valid-unet"`` only the decoder's are; the encoder's and the bottom's are not, and the image is
    mirrored about its edge pixels first, just so far that the output has the image's size. At a depth of 4 that takes
    62 pixels per side. For an image of 512 pixels::

        mirrored 636
        encoder  636 -> 632, pooled 316 -> 312, pooled 156 -> 152, pooled 76 -> 72, pooled 36
        bottom   36 -> 32
        decoder  64 (of 72, 4 off per side), 128 (of 152, 12 off), 256 (of 312, 28 off), 512 (of 632, 60 off)

    A block takes 2 elements per side off, which at level l are 2 * 2**l pixels, so that D poolings need
    2 * (1 + 2 + ... + 2**D) = 2 * (2**(D + 1) - 1) mirrored pixels, and the skip of level l loses
    4 * (2**(D - l) - 1) elements per side before it meets what comes from below. Were the bottom padded as well, 30
    pixels would do; were the decoder unpadded, it would take 92.

    The mirroring is part of the network, for its decoder pads with zeros just where the image ends. A tile's inner
    edges are mirrored too; that reaches no farther than the halo. The stride is 64 at a depth of 4 and not 16, since an
    image can be mirrored by less than its own size only.

    Parameters
    ----------
    config : NetworkConfig
        Width, depth, input folding, padding and dropout.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        folded = config.unshuffle**2
        self.fold: nn.Module = nn.PixelUnshuffle(config.unshuffle)
        widths = config.widths
        norm, padding = config.batch_norm, 0 if config.mirrored else 1
        split = config.separable
        # The very first convolution has next to no channels to separate.
        self.encoder = nn.ModuleList(
            ConvBlock(before, after, padding=padding, batch_norm=norm, separable=(split and level > 0, split))
            for level, (before, after) in enumerate(pairwise((config.channels * folded, *widths[:-1])))
        )
        self.bottom = ConvBlock(
            widths[-2], widths[-1], padding=padding, batch_norm=norm, separable=(split, split)
        )
        self.dropout: nn.Module = nn.Dropout2d(config.dropout)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(below, width, 2, stride=2) for below, width in pairwise(reversed(widths))
        )
        self.decoder = nn.ModuleList(
            ConvBlock(2 * width, width, padding=1, batch_norm=norm, separable=(split, split))
            for width in reversed(widths[:-1])
        )
        self.head = nn.Conv2d(config.base, folded, 1)
        self.unfold: nn.Module = nn.PixelShuffle(config.unshuffle)
        if not self.head.weight.is_meta:
            self._initialise()

    def _initialise(self) -> None:
        """He et al. 2015, "Delving Deep into Rectifiers", ICCV: twice the variance behind a ReLU, which halves it."""
        before: nn.Module | None = None
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                rectified = not isinstance(before, Depthwise)
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if rectified else "linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                before = module
        nn.init.normal_(self.head.weight, std=1e-2)

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        image_NCYX : Tensor of shape (N, config.channels, Y, X)
            Normalised grey values, those of the section itself in the middle of its neighbours'; Y and X are multiples
            of ``config.stride``.

        Returns
        -------
        Tensor of shape (N, 1, Y, X)
            Logits; positive means cell interior.
        """
        return self.logits(self.features(image_NCYX))

    def logits(self, features_NCYX: Tensor) -> Tensor:
        """Compute logits, as `forward`, from what `features` returns."""
        logits_NCYX: Tensor = self.unfold(self.head(features_NCYX))
        return logits_NCYX

    def features(self, image_NCYX: Tensor) -> Tensor:
        """Compute all but the last convolution.

        Parameters
        ----------
        image_NCYX : Tensor of shape (N, config.channels, Y, X)
            As for `forward`.

        Returns
        -------
        Tensor of shape (N, base, Y / unshuffle, X / unshuffle)
        """
        return self.levels(image_NCYX)[-1]

    def levels(self, image_NCYX: Tensor) -> list[Tensor]:
        """Compute what each level of the decoder makes of an image.

        Parameters
        ----------
        image_NCYX : Tensor of shape (N, config.channels, Y, X)
            As for `forward`.

        Returns
        -------
        list of Tensor
            From the deepest level to the first, which is what `features` returns; each has twice the height and width
            of the one before.
        """
        x_NCYX: Tensor = self.fold(image_NCYX)
        if self.config.mirrored:
            x_NCYX = F.pad(x_NCYX, (self.config.mirrored,) * 4, mode="reflect")
        skips = []
        for level, block in enumerate(self.encoder):
            x_NCYX = block(x_NCYX)
            skips.append(self._cropped(x_NCYX, level))
            x_NCYX = F.max_pool2d(x_NCYX, 2)
        x_NCYX = self.dropout(self.bottom(x_NCYX))
        decoded = []
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            x_NCYX = block(torch.cat((skips.pop(), upsample(x_NCYX)), dim=1))
            decoded.append(x_NCYX)
        return decoded

    def _cropped(self, skip_NCYX: Tensor, level: int) -> Tensor:
        """Take off a skip what lies beyond the image."""
        if not self.config.mirrored:
            return skip_NCYX
        off = 4 * (2 ** (self.config.depth - level) - 1)
        return skip_NCYX[:, :, off:-off, off:-off]
