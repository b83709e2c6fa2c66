"""What every peer is asked to do, what it returns, and how results are compared."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.limits import device_of
from isbi_infer.backends.base import Backend
from isbi_infer.model.opening import open_model
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.plan.tiles import SectionPlan, read_mirrored

AT_ONCE = "the whole section at once"


@dataclass(frozen=True, slots=True)
class Task:
    """One section to segment, with the same weights for all.

    Attributes
    ----------
    image_YX : ndarray of uint8
        The section.
    segmenter : Segmenter
        Ours, in the precision that was asked for.
    reference : Segmenter
        Ours in fp32; its model also computes the whole-image result.
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
        """What torch calls the device: "cpu" or "cuda"."""
        return device_of(self.segmenter.provider)

    def reference_backend(self) -> Backend:
        """Open the released model in fp32, on all cores for one call, without anything around it."""
        return open_model(None, self.reference.provider, "fp32").backend.on_all_cores()

    def normalised(self) -> Any:
        """Normalise the whole section by its own statistics."""
        return normalise(self.image_YX, intensity_statistics(self.image_YX))

    def tensor(self) -> Any:
        """Normalise the whole section; a tensor (1, 1, Y, X) on the device."""
        import torch

        return torch.from_numpy(self.normalised())[None, None].to(self.device)

    def padded(self) -> Whole:
        """Return what mirrors the section out to what the whole-image result is computed on, and crops it again."""
        return Whole(self.reference.plan(self.image_YX.shape).section)


@dataclass(frozen=True, slots=True)
class Whole:
    """A section padded in one piece, as `plan` pads it."""

    plan: SectionPlan

    @property
    def overhead(self) -> float:
        """Pixels computed per pixel of the section."""
        return prod(self.plan.padded) / prod(self.plan.shape)

    def batch(self, pixels_YX: Any) -> Any:
        """Mirror the edges; (1, 1, Y, X)."""
        height, width = self.plan.padded
        return read_mirrored(pixels_YX, self.plan.pad, (slice(0, height), slice(0, width)))[None, None]

    def crop(self, result_NCYX: Any) -> Any:
        """Take what was mirrored off again; (Y, X)."""
        plan = self.plan
        inside = (
            slice(before, before + side) for (before, _), side in zip(plan.pad, plan.shape, strict=True)
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
        """Return what is stored of it."""
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
