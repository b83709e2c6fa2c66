"""How a run trains, and on which sections."""

from __future__ import annotations

from dataclasses import dataclass, replace

from isbi_infer.terminal import counted
from isbi_train.config.flags import flag
from isbi_train.config.plain import Plain, require

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_LONG_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # in settings of earlier runs
DEVICES = ("auto", "cpu", "cuda")
_LARGEST_CROP = 16_384  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Plain):
    """One training run.

    Attributes
    ----------
    epochs : int
        An epoch draws as many pixels as the training sections have.
    steps : int
        Steps in all, which the epochs share evenly, though the last one may be shorter, and there are no more epochs
        than steps; 0 lets the number of pixels decide.
    crop : int
        Side of the square training crops, in pixels.
    batch : int
        Crops a step, of all processes together.
    learning_rate, weight_decay : float
        Settings of AdamW; the rate warms up linearly and decays to zero along a cosine.
    warmup_steps : int
        Steps of the warm-up, a fifth of the run at most.
    average : float
        Highest decay per step of the exponentially averaged weights, which are what is validated and exported; in
        short runs it is lower, so that a run is at least five times as long as what the average remembers.
    average_share : float
        Share of the run that the averaged weights remember, in place of `average`, so that the average reaches equally
        far back in runs of every length; 0.2 at most, and 0 takes `average`.
    hold_out : int or None
        How many neighbouring sections are kept for validation; None takes a sixth of them, rounded, and at least one:
        5 of ISBI 2012's 30.
    hold_out_start : int or None
        The first of them, counted from 0; None takes the last sections.
    checkpoint_epochs : int
        Epochs between validations and checkpoints.
    border : int
        Mirrored pixels around a section when it is validated, and later segmented.
    precision : {"auto", "fp32", "bf16", "fp16"}
        Precision of the training arithmetic; "auto" takes the narrowest that the device computes natively.
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
    membrane_width_nm : float
        Width of the membranes that are drawn where cells with ids meet; 0 leaves labels as they are read. See
        `isbi_train.data.borders`.
    ignore_band_nm : float
        Width of a band beside membranes, on the side of the cells, that is left out of the loss; 0 leaves out nothing.
    affinity_weight : float
        Weight of the affinities in the loss, which a head that is dropped after training learns beside the membranes;
        0 has none. See `isbi_train.training.affinities`.
    deep_weight : float
        Weight of what each coarser level of the decoder says by itself of membranes, by heads that are dropped after
        training; 0 has none. See `isbi_train.training.heads.deep_loss`.
    cldice_weight : float
        Weight of gaps in membranes, and of false ones, measured along their middle lines; 0 leaves the loss to pixels.
        See `isbi_train.training.topology`.
    validated_sections : int
        How many held-out sections of each stack are scored by a validation, spread evenly; 0 scores all, and the end of
        a run does.
    """

    epochs: int = flag(360, "An epoch draws as many pixels as the training sections have.")
    steps: int = flag(0, "Steps in all; 0 for as many as the epochs have.")
    crop: int = flag(256, "Side of the training crops, in pixels.")
    batch: int = flag(4, "Crops a step, of all processes together.")
    learning_rate: float = flag(2e-3, "Highest rate of AdamW.")
    weight_decay: float = 1e-2
    warmup_steps: int = 200
    average: float = 0.998
    average_share: float = 0.0
    hold_out: int | None = flag(None, "How many sections are kept for validation; else a sixth of them.")
    hold_out_start: int | None = flag(None, "The first of them, from 0; else they are the last.")
    checkpoint_epochs: int = 2
    border: int = flag(0, "Mirrored pixels around a section when it is segmented.")
    precision: str = flag("auto", "Precision of the training arithmetic.", choices=PRECISIONS)
    device: str = flag("auto", "Where to train.", choices=DEVICES)
    seed: int = flag(2012, "Fixes weights, crops, augmentation and dropout.")
    clip_norm: float = flag(1.0, "Longest gradient; 0 for any.")
    patience: int = flag(0, "Stop after so many validations without a better V_rand; 0 never does.")
    calibrate: bool = flag(
        False, "Fit a factor and an offset to the held-out logits in the end.", name="--calibrate"
    )
    membrane_weight: float = flag(1.0, "Weight of a membrane pixel in the loss; that of a cell pixel is 1.")
    border_weight: float = flag(0.0, "U-Net's w0 between near cells; the paper's is 10.")
    border_sigma_px: float = 5.0
    label_smoothing: float = flag(0.0, "Smoothing of the labels beside borders, 0 to 1.")
    label_smoothing_px: float = 2.0
    soft_weight: float = flag(0.5, "Share of the teachers in the targets, 0 to 1.")
    membrane_width_nm: float = 0.0
    ignore_band_nm: float = 0.0
    affinity_weight: float = 0.0
    deep_weight: float = 0.0
    cldice_weight: float = 0.0
    validated_sections: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", _LONG_NAMES.get(self.precision, self.precision))
        self.require_bounds()
        require(self.hold_out is None or self.hold_out >= 1, f"hold_out {self.hold_out} is below 1")
        for name in ("epochs", "crop", "batch", "checkpoint_epochs"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} is below 1")
        require(self.crop <= _LARGEST_CROP, f"crop {self.crop} is above {_LARGEST_CROP}")
        require(0 <= self.seed < 2**31, f"seed {self.seed} is not within 0..{2**31 - 1}")
        require(self.weight_decay >= 0, f"weight decay {self.weight_decay} is negative")
        require(self.learning_rate > 0, f"learning rate {self.learning_rate} is not positive")
        require(0 <= self.average < 1, f"average {self.average} is not within [0, 1)")
        require(0 <= self.average_share <= 0.2, f"average_share {self.average_share} is not within [0, 0.2]")
        require(self.border >= 0, f"border {self.border} is negative")
        require(self.warmup_steps >= 0, f"warm-up of {self.warmup_steps} steps is negative")
        for name, known in (("precision", PRECISIONS), ("device", DEVICES)):
            value = getattr(self, name)
            require(value in known, f"{name} {value!r} is not one of {', '.join(known)}")
        require(self.hold_out_start is None or self.hold_out_start >= 0, "hold_out_start is negative")
        names = ("clip_norm", "patience", "border_weight", "steps", "membrane_width_nm", "ignore_band_nm")
        for name in (*names, "affinity_weight", "deep_weight", "cldice_weight", "validated_sections"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is negative")
        for name in ("membrane_weight", "border_sigma_px", "label_smoothing_px"):
            require(getattr(self, name) > 0, f"{name} {getattr(self, name)} is not positive")
        for name in ("label_smoothing", "soft_weight"):
            require(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)} is not within [0, 1]")

    def held_out(self, sections: int) -> slice:
        """Return which of a stack's sections are only validated on.

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
        count = max(1, (sections + 3) // 6) if self.hold_out is None else self.hold_out
        start = sections - count if self.hold_out_start is None else self.hold_out_start
        stop = start + count
        require(
            0 <= start < stop <= sections and count < sections,
            f"cannot hold out {counted(count, 'section')}"
            + ("" if self.hold_out_start is None else f" from section {start} on")
            + f" of a stack of {sections} and train on the others; hold out fewer, or give more sections",
        )
        return slice(start, stop)

    def counted(self, sections: int) -> TrainConfig:
        """Return the settings with the number of held-out sections in place of a share, as a run stores them."""
        held_out = self.held_out(sections)
        return replace(self, hold_out=held_out.stop - held_out.start)

    def training_sections(self, sections: int) -> str:
        """Name the sections of a stack that are trained on, such as "0:25" or "0:10,15:30"."""
        held_out = self.held_out(sections)
        ranges = (0, held_out.start), (held_out.stop, sections)
        return ",".join(f"{start}:{stop}" for start, stop in ranges if start < stop)

    def split_line(self, sections: int) -> str:
        """Return a line for users on which sections of a stack train and which validate."""
        held_out = self.held_out(sections)
        training = [(0, held_out.start), (held_out.stop, sections)]
        trained_on = " and ".join(_between(start, stop) for start, stop in training if start < stop)
        validated_on = _between(held_out.start, held_out.stop)
        return f"sections {trained_on} train, {validated_on} validate (of {sections}, from 0)"


def _between(start: int, stop: int) -> str:
    return f"{start}" if stop - start == 1 else f"{start}-{stop - 1}"
