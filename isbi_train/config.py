"""Settings as validated, frozen values; the command line only fills them in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from isbi_infer.errors import UsageError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


class _Plain:
    """Conversion to and from plain types, as checkpoints store them."""

    def to_plain(self) -> dict[str, Any]:
        """Give the settings as a dictionary of plain types."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """Read what `to_plain` gave; missing and unknown names raise UsageError, for a default would be a guess."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        missing, unknown = sorted(known - set(plain)), sorted(set(plain) - known)
        _require(not missing and not unknown, f"{cls.__name__} settings missing {missing}, unknown {unknown}")
        return cls(**plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig(_Plain):
    """A U-Net's architecture.

    Attributes
    ----------
    base : int
        Channels of the first level; each level below has twice as many. 64 with ``depth=4, unshuffle=1`` is the
        31-million-parameter U-Net of Ronneberger et al. 2015, MICCAI, 234-241.
    depth : int
        Number of 2x2 poolings.
    unshuffle : {1, 2}
        2 folds each 2x2 block of pixels into channels first: four times fewer operations, no pixel lost.
    dropout : float
        Probability of dropping a channel of the deepest level during training.
    """

    base: int = 32
    depth: int = 3
    unshuffle: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _require(1 <= self.base <= 512, f"base width {self.base} is not within 1..512")
        _require(1 <= self.depth <= 6, f"depth {self.depth} is not within 1..6")
        _require(self.unshuffle in (1, 2), f"unshuffle {self.unshuffle} is neither 1 nor 2")
        _require(0 <= self.dropout < 1, f"dropout {self.dropout} is not within [0, 1)")

    @property
    def stride(self) -> int:
        """What input heights and widths must be multiples of, in pixels."""
        return int(self.unshuffle * 2**self.depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig(_Plain):
    """How training crops are varied.

    Attributes
    ----------
    rotation_deg : float
        Rotation drawn uniformly from +- this angle; 180 is the full circle.
    flip : bool
        Mirror half of the crops.
    scale_min, scale_max : float
        Magnification, drawn log-uniformly.
    elastic_px : float
        Standard deviation of the elastic displacement at its control points.
    elastic_spacing_px : int
        Distance of the control points.
    contrast : float
        Largest natural logarithm of the contrast factor, either way.
    brightness : float
        Largest offset, in standard deviations of the section.
    gamma : float
        Largest natural logarithm of the exponent, either way.
    blur_px : float
        Largest standard deviation of a Gaussian blur.
    noise : float
        Largest standard deviation of Gaussian noise, in standard deviations of the section.
    """

    rotation_deg: float = 180.0
    flip: bool = True
    scale_min: float = 0.7
    scale_max: float = 1.4
    elastic_px: float = 4.0
    elastic_spacing_px: int = 48
    contrast: float = 0.4
    brightness: float = 0.4
    gamma: float = 0.4
    blur_px: float = 1.2
    noise: float = 0.3

    def __post_init__(self) -> None:
        _require(0 < self.scale_min <= self.scale_max, f"scale {self.scale_min}..{self.scale_max} is empty")
        _require(self.elastic_spacing_px >= 8, f"elastic spacing {self.elastic_spacing_px} px is below 8")
        for name in ("rotation_deg", "elastic_px", "contrast", "brightness", "gamma", "blur_px", "noise"):
            _require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(_Plain):
    """One training run.

    Attributes
    ----------
    epochs : int
        An epoch draws as many pixels as the training sections have.
    crop : int
        Side of the square training crops, in pixels.
    batch : int
        Crops a step.
    learning_rate, weight_decay : float
        Of AdamW; the rate warms up linearly and decays to zero along a cosine.
    warmup_steps : int
        Steps of the warm-up, a fifth of the run at most.
    average : float
        Decay per step of the exponentially averaged weights, which are what is validated and exported.
    hold_out : int
        How many of the last sections are kept for validation; 5 of ISBI 2012's 30.
    checkpoint_epochs : int
        Epochs between validations and checkpoints.
    border : int
        Mirrored pixels around a section when it is validated, and later segmented.
    precision : {"auto", "float32", "bfloat16", "float16"}
        Of the training arithmetic; "auto" takes the narrowest that the device computes natively.
    device : {"auto", "cpu", "cuda"}
        "auto" is CUDA when present.
    seed : int
        Fixes the initial weights and every step's crops, augmentation and dropout.
    """

    epochs: int = 360
    crop: int = 256
    batch: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 200
    average: float = 0.998
    hold_out: int = 5
    checkpoint_epochs: int = 2
    border: int = 0
    precision: str = "auto"
    device: str = "auto"
    seed: int = 2012

    def __post_init__(self) -> None:
        for name in ("epochs", "crop", "batch", "hold_out", "checkpoint_epochs"):
            _require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} is below 1")
        _require(0 <= self.seed < 2**31, f"seed {self.seed} is not within 0..{2**31 - 1}")
        _require(self.weight_decay >= 0, f"weight decay {self.weight_decay} is negative")
        _require(self.learning_rate > 0, f"learning rate {self.learning_rate} is not positive")
        _require(0 <= self.average < 1, f"average {self.average} is not within [0, 1)")
        _require(self.border >= 0, f"border {self.border} is negative")
        _require(self.warmup_steps >= 0, f"warm-up of {self.warmup_steps} steps is negative")
        precisions = ("auto", "float32", "bfloat16", "float16")
        _require(self.precision in precisions, f"precision {self.precision!r} is not one of {precisions}")
        _require(self.device in ("auto", "cpu", "cuda"), f"device {self.device!r} is not auto, cpu or cuda")
