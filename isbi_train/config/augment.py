"""How training crops are varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from isbi_train.config.plain import Plain, require


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
        require(0 < self.scale_min <= self.scale_max, f"scale {self.scale_min}..{self.scale_max} is empty")
        require(self.elastic_spacing_px >= 8, f"elastic spacing {self.elastic_spacing_px} px is below 8")
        for name in ("rotation_deg", "elastic_px", "contrast", "brightness", "gamma", "blur_px", "noise"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is negative")
        for name in ("fold_probability", "dirt_probability", "defocus_probability"):
            require(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)} is not within [0, 1]")
        for name in ("fold_width_px", "dirt_radius_px", "defocus_px"):
            require(getattr(self, name) > 0, f"{name} {getattr(self, name)} is not positive")
        for name in ("fold_shift_px", "fold_darkness", "dirt_darkness"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is negative")

    @classmethod
    def none(cls) -> Self:
        """Return settings that vary nothing but the place of a crop."""
        return cls(
            rotation_deg=0,
            flip=False,
            scale_min=1,
            scale_max=1,
            elastic_px=0,
            contrast=0,
            brightness=0,
            gamma=0,
            blur_px=0,
            noise=0,
            fold_probability=0,
            dirt_probability=0,
            defocus_probability=0,
        )
