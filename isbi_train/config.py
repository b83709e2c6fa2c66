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


ARCHITECTURES = ("unet", "valid-unet")


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
    unshuffle : {1, 2, 4}
        2 folds each 2x2 block of pixels into channels first: four times fewer operations, no pixel lost. 4 folds 4x4.
    dropout : float
        Probability of dropping a channel of the deepest level during training.
    arch : {"unet", "valid-unet"}
        "unet" pads every convolution with zeros. "valid-unet" mirrors the image's edges and leaves the convolutions on
        the way down unpadded; see `isbi_train.network.UNet`.
    widest : int
        Most channels of any level; most weights sit in the deepest.
    batch_norm : bool
        Whether BatchNorm follows every 3x3 convolution; without it the convolutions have biases.
    """

    base: int = 32
    depth: int = 3
    unshuffle: int = 2
    dropout: float = 0.1
    arch: str = "unet"
    widest: int = 1024
    batch_norm: bool = True

    def __post_init__(self) -> None:
        _require(1 <= self.base <= 512, f"base width {self.base} is not within 1..512")
        _require(1 <= self.depth <= 6, f"depth {self.depth} is not within 1..6")
        _require(self.unshuffle in (1, 2, 4), f"unshuffle {self.unshuffle} is none of 1, 2 and 4")
        _require(0 <= self.dropout < 1, f"dropout {self.dropout} is not within [0, 1)")
        _require(self.arch in ARCHITECTURES, f"arch {self.arch!r} is not one of {', '.join(ARCHITECTURES)}")
        _require(
            self.base <= self.widest <= 512 * 2**6,
            f"widest {self.widest} is not within {self.base}..{512 * 2**6}, from the base width up",
        )
        _require(
            isinstance(self.batch_norm, bool), f"batch_norm {self.batch_norm!r} is neither true nor false"
        )
        _require(
            self.arch == "unet" or self.unshuffle == 1,
            f"unshuffle {self.unshuffle} does not go with arch {self.arch}, which folds no pixels; use 1",
        )

    @classmethod
    def of(cls, arch: str, **given: Any) -> Self:
        """Give the settings that an architecture is known by, some of them changed.

        Parameters
        ----------
        arch : {"unet", "valid-unet"}
            The defaults of "valid-unet" are the classic network's: 64-128-256-512-1024, unfolded, without dropout.
        **given : int, float or bool
            Fields by name; None leaves the default.

        Raises
        ------
        UsageError
            If they cannot be meant.
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
    def mirrored(self) -> int:
        """Pixels per side by which the network itself mirrors the image: what its unpadded convolutions take off."""
        return 2 * (2 ** (self.depth + 1) - 1) if self.arch == "valid-unet" else 0

    @property
    def stride(self) -> int:
        """What input heights and widths must be multiples of, in pixels."""
        # An image can be mirrored by less than its size only, which is so from four periods on.
        periods = 4 if self.mirrored else 1
        return int(periods * self.unshuffle * 2**self.depth)


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
    fold_probability : float
        Share of crops with a fold: a dark band that hides some tissue, so that the two sides are displaced.
    fold_width_px : float
        Largest standard deviation of the band's profile.
    fold_shift_px : float
        Largest width of the hidden tissue.
    fold_darkness : float
        Largest darkening in the band's middle, in standard deviations of the section.
    dirt_probability : float
        Share of crops with one to three dark blobs.
    dirt_radius_px : float
        Largest radius of a blob.
    dirt_darkness : float
        Largest darkening in a blob's middle, in standard deviations of the section.
    defocus_probability : float
        Share of crops of which one side of a random line is out of focus.
    defocus_px : float
        Largest standard deviation of the Gaussian blur there.
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
    fold_probability: float = 0.03
    fold_width_px: float = 6.0
    fold_shift_px: float = 24.0
    fold_darkness: float = 3.0
    dirt_probability: float = 0.03
    dirt_radius_px: float = 16.0
    dirt_darkness: float = 4.0
    defocus_probability: float = 0.03
    defocus_px: float = 3.0

    def __post_init__(self) -> None:
        _require(0 < self.scale_min <= self.scale_max, f"scale {self.scale_min}..{self.scale_max} is empty")
        _require(self.elastic_spacing_px >= 8, f"elastic spacing {self.elastic_spacing_px} px is below 8")
        for name in ("rotation_deg", "elastic_px", "contrast", "brightness", "gamma", "blur_px", "noise"):
            _require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is negative")
        for name in ("fold_probability", "dirt_probability", "defocus_probability"):
            _require(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)} is not within [0, 1]")
        for name in ("fold_width_px", "dirt_radius_px", "defocus_px"):
            _require(getattr(self, name) > 0, f"{name} {getattr(self, name)} is not positive")
        for name in ("fold_shift_px", "fold_darkness", "dirt_darkness"):
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
        How many neighbouring sections are kept for validation; 5 of ISBI 2012's 30.
    hold_out_start : int or None
        The first of them, counted from 0; None takes the last sections.
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
    clip_norm : float
        Longest gradient; longer ones are scaled down to it. 0 leaves all as they are.
    patience : int
        Stop after so many validations without a better V_rand; 0 never does.
    calibrate : bool
        After training, fit one factor and one offset to the held-out logits and fold them into the last convolution.
    membrane_weight : float
        Weight of a membrane pixel in the loss; that of a cell pixel is 1.
    border_weight, border_sigma_px : float
        w0 and sigma of the weights that Ronneberger et al. 2015 (equation 2) add where two cells are near; theirs are
        10 and 5, and 0 adds nothing.
    label_smoothing, label_smoothing_px : float
        How far the target moves from the label towards 1/2 beside a border (0..1), and the distance, as a standard
        deviation, over which that fades.
    soft_weight : float
        Share of the teachers' probabilities in the targets of labelled sections (0..1), where there are teachers.
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
    hold_out_start: int | None = None
    clip_norm: float = 1.0
    patience: int = 0
    calibrate: bool = False
    membrane_weight: float = 1.0
    border_weight: float = 0.0
    border_sigma_px: float = 5.0
    label_smoothing: float = 0.0
    label_smoothing_px: float = 2.0
    soft_weight: float = 0.5

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
        _require(self.hold_out_start is None or self.hold_out_start >= 0, "hold_out_start is negative")
        for name in ("clip_norm", "patience", "border_weight"):
            _require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is negative")
        for name in ("membrane_weight", "border_sigma_px", "label_smoothing_px"):
            _require(getattr(self, name) > 0, f"{name} {getattr(self, name)} is not positive")
        for name in ("label_smoothing", "soft_weight"):
            _require(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)} is not within [0, 1]")

    def held_out(self, sections: int) -> slice:
        """Say which of a stack's sections are only validated on.

        Parameters
        ----------
        sections : int
            How many the stack has.

        Returns
        -------
        slice

        Raises
        ------
        UsageError
            If they do not lie in the stack, or leave none to train on.
        """
        start = sections - self.hold_out if self.hold_out_start is None else self.hold_out_start
        stop = start + self.hold_out
        _require(
            0 <= start < stop <= sections and self.hold_out < sections,
            f"cannot hold out {self.hold_out} sections"
            + ("" if self.hold_out_start is None else f" from section {start} on")
            + f" of a stack of {sections} and train on the others; hold out fewer, or give more sections",
        )
        return slice(start, stop)

    def training_sections(self, sections: int) -> str:
        """Name the sections of a stack that are trained on, such as "0:25" or "0:10,15:30"."""
        held_out = self.held_out(sections)
        ranges = (0, held_out.start), (held_out.stop, sections)
        return ",".join(f"{start}:{stop}" for start, stop in ranges if start < stop)
