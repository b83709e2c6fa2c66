"""What every peer gets, what it has to give, and how that is compared."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.plan.tiles import read_mirrored

AT_ONCE = "the whole section at once"


@dataclass(frozen=True, slots=True)
class Task:
    """What every peer gets.

    Attributes
    ----------
    image_YX : ndarray of uint8
        The section.
    segmenter : Segmenter
        Ours, in the precision that was asked for.
    reference : Segmenter
        Ours in fp32, whose session gives the whole-image result.
    folder : Path
        For a peer that needs files.
    quick : bool
        A smoke run: whether it works, not how fast.
    """

    image_YX: Any
    segmenter: Any
    reference: Any
    folder: Path
    quick: bool

    @property
    def device(self) -> str:
        return "cpu" if self.segmenter.provider == "cpu" else "cuda"

    def normalised(self) -> Any:
        """Normalise the whole section by its own statistics."""
        return normalise(self.image_YX, intensity_statistics(self.image_YX))

    def tensor(self) -> Any:
        """Normalise the whole section; a tensor (1, 1, Y, X) on the device."""
        import torch

        return torch.from_numpy(self.normalised())[None, None].to(self.device)

    def padded(self) -> Whole:
        """Give what mirrors the section out to what the whole-image result is computed on, and crops it again."""
        return Whole(self.image_YX.shape, self.reference.plan(self.image_YX.shape).pad)


@dataclass(frozen=True, slots=True)
class Whole:
    """A section padded in one piece."""

    shape: tuple[int, int]
    pad: tuple[tuple[int, int], tuple[int, int]]

    @property
    def padded_shape(self) -> tuple[int, ...]:
        return tuple(
            before + side + after for (before, after), side in zip(self.pad, self.shape, strict=True)
        )

    @property
    def overhead(self) -> float:
        """Pixels computed per pixel of the section."""
        return float(np.prod(self.padded_shape) / np.prod(self.shape))

    def batch(self, pixels_YX: Any) -> Any:
        """Mirror the edges; (1, 1, Y, X)."""
        everything = tuple(slice(0, side) for side in self.padded_shape)
        return read_mirrored(pixels_YX, self.pad, everything)[None, None]

    def crop(self, result_NCYX: Any) -> Any:
        """Take what was mirrored off again; (Y, X)."""
        inside = (
            slice(before, before + side) for (before, _), side in zip(self.pad, self.shape, strict=True)
        )
        return result_NCYX[(0, 0, *inside)]


@dataclass(frozen=True, slots=True)
class Peer:
    """One contender, ready to run.

    Attributes
    ----------
    run : callable
        From the section's grey values in memory to probabilities (Y, X) in memory.
    does : str
        What it computes, for a table.
    precision : str
        Of its arithmetic.
    overhead : float
        Pixels that go through the network per pixel of the section.
    """

    run: Callable[[], Any]
    does: str
    precision: str
    overhead: float

    def described(self) -> dict[str, Any]:
        """Give what is stored of it."""
        return {
            "does": self.does,
            "precision": self.precision,
            "pixels_computed_per_pixel": self.overhead,
        }


Build = Callable[[Task], Peer]


def need(*modules: str) -> None:
    """Skip, by name, what is not installed."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            pytest.skip(f"{module} is not installed")


def differences(result_YX: Any, whole_YX: Any, halo: int) -> dict[str, float]:
    """Compare a result with the whole-image result.

    ``largest_inside`` leaves out what lies within `halo` of the section's edge, where it is not seams but another
    idea of what lies beyond the edge that shows.
    """
    error_YX = np.abs(result_YX - whole_YX)
    inside_YX = error_YX[halo:-halo, halo:-halo]
    return {
        "largest": float(error_YX.max()),
        "largest_inside": float(inside_YX.max()) if inside_YX.size else float("nan"),
        "mean": float(error_YX.mean(dtype=np.float64)),
        "changed_class": float(np.mean((result_YX > 0.5) != (whole_YX > 0.5))),
    }
