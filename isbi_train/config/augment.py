"""How training crops are varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from isbi_train.config.plain import Plain, require

_PROBABILITIES = (
    "fold_probability",
    "dirt_probability",
    "defocus_probability",
    "seam_probability",
    "knife_probability",
    "streak_probability",
    "blocks_probability",
    "canvas_probability",
    "gap_probability",
    "slip_probability",
)
_STRENGTHS = (
    "scale_spread",
    "fold_shift_px",
    "fold_darkness",
    "dirt_darkness",
    "shading",
    "grain_px",
    "seam_shift_px",
    "seam_brightness",
    "knife_contrast",
    "streak_contrast",
    "slip_px",
    "tone",
    "sharpness",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig(Plain):
    """How training crops are varied.

    Attributes
    ----------
    rotation_deg : float
        Rotation drawn uniformly from +- this angle; 180 is the full circle.
    flip : bool
        Mirror half of the crops.
    scale_min, scale_max : float
        Magnification, drawn log-uniformly.
    scale_spread : float
        Standard deviation of its natural logarithm, where it is drawn from a normal distribution around 0 instead, cut
        off at the limits; 0 for evenly between them.
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
    tone : float
        Standard deviation of the natural logarithm of the slopes of a rising curve that grey values are bent by, 6
        straight pieces over 3 standard deviations of the section either way.
    sharpness : float
        Largest strength of an unsharp mask of 1 to 8 pixels' radius; half of the crops have none.
    blur_px : float
        Largest standard deviation of a Gaussian blur.
    noise : float
        Largest standard deviation of Gaussian noise, in standard deviations of the section; with `shot` that where the
        section has its mean.
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
    shading : float
        Largest change of brightness over a crop, either way, in standard deviations of the section.
    shot : float
        Share of the noise's variance that rises with the grey value, as that of counted electrons does, 0 to 1: none is
        left of it 4 standard deviations below the section's mean, about where no electron arrives.
    grain_px : float
        Largest correlation of the noise, as the standard deviation of a Gaussian blur; half of the crops have none.
    seam_probability : float
        Share of crops with a seam, beyond which tissue is displaced and of another brightness.
    seam_shift_px : float
        Largest displacement along either axis.
    seam_brightness : float
        Largest change of brightness, either way, in standard deviations of the section.
    knife_probability : float
        Share of crops with one to three parallel scratches.
    knife_width_px : float
        Largest standard deviation of a scratch's profile.
    knife_contrast : float
        Largest change of brightness in its middle, either way, in standard deviations of the section.
    streak_probability : float
        Share of crops with brighter and darker scan lines, as charging leaves them.
    streak_contrast : float
        Their largest strength, in standard deviations of the section.
    blocks_probability : float
        Share of crops that are compressed in blocks of 8 by 8 pixels, as JPEG does.
    blocks_strength : float
        Largest coarseness; 1 is the table of JPEG's standard for an 8-bit image.
    canvas_probability : float
        Share of crops with a part that shows no tissue and is left out of the loss.
    gap_probability : float
        Share of crops whose section lacks neighbours that the network sees: in half of them all, in the others one, for
        which the next one on the way to the section stands in.
    slip_probability : float
        Share of crops whose neighbours are out of line: all that lie beyond one place in the stack, on one side of the
        section.
    slip_px : float
        Largest displacement of these along either axis, rounded to whole pixels.
    """

    rotation_deg: float = 180.0
    flip: bool = True
    scale_min: float = 0.7
    scale_max: float = 1.4
    scale_spread: float = 0.0
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
    shading: float = 0.0
    shot: float = 0.0
    tone: float = 0.0
    sharpness: float = 0.0
    grain_px: float = 0.0
    seam_probability: float = 0.0
    seam_shift_px: float = 4.0
    seam_brightness: float = 0.5
    knife_probability: float = 0.0
    knife_width_px: float = 1.5
    knife_contrast: float = 2.0
    streak_probability: float = 0.0
    streak_contrast: float = 0.6
    blocks_probability: float = 0.0
    blocks_strength: float = 1.0
    canvas_probability: float = 0.0
    gap_probability: float = 0.2
    slip_probability: float = 0.0
    slip_px: float = 8.0

    def __post_init__(self) -> None:
        self.require_bounds()
        require(self.scale_min <= self.scale_max, f"scale {self.scale_min}..{self.scale_max} is empty")
        for name in ("scale_min", "scale_max"):
            require(
                0.01 <= getattr(self, name) <= 100, f"{name} {getattr(self, name)} is not within [0.01, 100]"
            )
        require(self.elastic_spacing_px >= 8, f"elastic spacing {self.elastic_spacing_px} px is below 8")
        for name in ("rotation_deg", "elastic_px", "contrast", "brightness", "gamma", "blur_px", "noise"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is negative")
        for name in (*_PROBABILITIES, "shot"):
            require(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)} is not within [0, 1]")
        for name in ("fold_width_px", "dirt_radius_px", "defocus_px", "knife_width_px", "blocks_strength"):
            require(getattr(self, name) > 0, f"{name} {getattr(self, name)} is not positive")
        for name in _STRENGTHS:
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is negative")

    @classmethod
    def none(cls) -> Self:
        """Return settings that vary nothing but the place of a crop."""
        return cls(
            rotation_deg=0,
            flip=False,
            scale_min=1,
            scale_max=1,
            scale_spread=0,
            elastic_px=0,
            contrast=0,
            brightness=0,
            gamma=0,
            blur_px=0,
            noise=0,
            shading=0,
            shot=0,
            tone=0,
            sharpness=0,
            grain_px=0,
            **dict.fromkeys(_PROBABILITIES, 0),
        )
