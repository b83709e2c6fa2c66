"""A network's architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from isbi_train.config.flags import flag
from isbi_train.config.plain import Plain, require

ARCHITECTURES = ("unet", "valid-unet")
_MOST_NEIGHBOURS = 8  # on either side


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig(Plain):
    """A U-Net's architecture.

    Attributes
    ----------
    arch : {"unet", "valid-unet"}
        "unet" pads every convolution with zeros. "valid-unet" mirrors the image's edges and leaves the convolutions on
        the way down unpadded; see `isbi_train.networks.network.UNet`.
    base : int
        Channels of the first level; each level below has twice as many. 64 with ``depth=4, unshuffle=1`` is the
        31-million-parameter U-Net of Ronneberger et al. 2015, MICCAI, 234-241.
    depth : int
        Number of 2x2 poolings.
    unshuffle : {1, 2, 4}
        2 folds each 2x2 block of pixels into channels first: four times fewer operations, no pixel lost. 4 folds 4x4.
    dropout : float
        Probability of dropping a channel of the deepest level during training.
    widest : int
        Most channels of any level; most weights sit in the deepest.
    batch_norm : bool
        Whether BatchNorm follows every 3x3 convolution; without it the convolutions have biases.
    separable : bool
        Whether every 3x3 convolution but the first is split in two: a 3x3 of each channel by itself, then a 1x1 over
        all channels. About eight times fewer operations and weights there. Chollet 2017, "Xception", CVPR; Howard et
        al. 2017, "MobileNets", arXiv:1704.04861, but without BatchNorm and ReLU between the two.
    neighbours : int
        Sections before and after the one that is segmented that the network sees, too, as many on either side; a stack
        is mirrored at its ends.
    """

    arch: str = flag("unet", "Architecture; each has its own defaults for the others.", choices=ARCHITECTURES)
    base: int = flag(32, "Channels of the first level.")
    depth: int = flag(3, "Number of 2x2 poolings.")
    unshuffle: int = flag(2, "1, or 2 or 4 to fold so many pixels a side into channels.")
    dropout: float = flag(0.1, "Share of channels dropped at the deepest level.")
    widest: int = 1024
    batch_norm: bool = True
    separable: bool = False
    neighbours: int = flag(0, "Sections on either side that the network sees, too.")

    def __post_init__(self) -> None:
        require(1 <= self.base <= 512, f"base width {self.base} is not within 1..512")
        require(1 <= self.depth <= 6, f"depth {self.depth} is not within 1..6")
        require(self.unshuffle in (1, 2, 4), f"unshuffle {self.unshuffle} is none of 1, 2 and 4")
        require(0 <= self.dropout < 1, f"dropout {self.dropout} is not within [0, 1)")
        require(
            0 <= self.neighbours <= _MOST_NEIGHBOURS,
            f"neighbours {self.neighbours} is not within 0..{_MOST_NEIGHBOURS}",
        )
        require(self.arch in ARCHITECTURES, f"arch {self.arch!r} is not one of {', '.join(ARCHITECTURES)}")
        require(
            self.base <= self.widest <= 512 * 2**6,
            f"widest {self.widest} is not within {self.base}..{512 * 2**6}, from the base width up",
        )
        for name in ("batch_norm", "separable"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} {value!r} is neither true nor false")
        require(
            self.arch == "unet" or self.unshuffle == 1,
            f"unshuffle {self.unshuffle} does not go with arch {self.arch}, which folds no pixels; use 1",
        )
        require(
            self.arch == "unet" or not self.separable,
            f"separable convolutions do not go with arch {self.arch}, the classic network; use arch unet",
        )

    @classmethod
    def of(cls, arch: str, **given: Any) -> Self:
        """Return an architecture with its own defaults, some of them changed.

        Parameters
        ----------
        arch : {"unet", "valid-unet"}
            The defaults of "valid-unet" are the classic network's: 64-128-256-512-1024, unfolded, without dropout.
        **given : int, float or bool
            Fields by name; None leaves the default.

        Raises
        ------
        UsageError
            If a value is invalid, or does not go with the architecture.
        """
        classic = {"base": 64, "depth": 4, "unshuffle": 1, "dropout": 0.0}
        defaults = classic if arch == "valid-unet" else {}
        chosen = {name: value for name, value in given.items() if value is not None}
        return cls(arch=arch, **{**defaults, **chosen})

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, from the first to the deepest."""
        return tuple(min(self.base * 2**level, self.widest) for level in range(self.depth + 1))

    @property
    def channels(self) -> int:
        """Sections that the network takes at once: one, and its neighbours."""
        return 1 + 2 * self.neighbours

    @property
    def shapes(self) -> dict[str, Any]:
        """What decides which weights there are, and how they are used; dropout, for one, does not."""
        names = ("arch", "widths", "unshuffle", "batch_norm", "separable", "neighbours")
        return {name: getattr(self, name) for name in names}

    @property
    def mirrored(self) -> int:
        """Pixels per side by which the network itself mirrors the image: what its unpadded convolutions take off."""
        return 2 * (2 ** (self.depth + 1) - 1) if self.arch == "valid-unet" else 0

    @property
    def stride(self) -> int:
        """What input heights and widths must be multiples of, in pixels."""
        # An image can be mirrored by less than its size only, which is so from four periods on.
        periods = 4 if self.mirrored else 1
        return int(periods * self.unshuffle * 2**self.depth)
