"""Sections that show a network's ranges before it is quantised, seen as `isbi_infer` shows them to it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_export.synthetic import synthetic_sections
from isbi_infer.errors import UsageError
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.plan.tiles import plan_section, read_mirrored
from isbi_infer.volumes import open_stack
from isbi_train.evaluation.evaluate import read_sections

SECTIONS = 8
_LONGEST = 1024  # pixels of a section's middle; all tensors of a network are held at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """Sections to calibrate on.

    Attributes
    ----------
    section_ZYX : ndarray, shape (Z, Y, X)
        Grey values as stored.
    source : dict
        What the contract records about them: ``sections`` and the stack's ``data_sha256``, or that they are synthetic.
    """

    section_ZYX: npt.NDArray[Any]
    source: dict[str, Any]

    def batches(self, *, stride: int, border: int) -> list[npt.NDArray[np.float32]]:
        """Return each section normalised and mirrored, or its middle where it is large; float32 (1, 1, Y, X)."""
        plan = plan_section(self.section_ZYX.shape[1:], stride=stride, halo=0, border=border)
        (tile,) = plan.tiles
        most = _LONGEST // stride * stride
        batches = []
        for section_YX in self.section_ZYX:
            normalised_YX = normalise(section_YX, intensity_statistics(section_YX))
            padded_YX = read_mirrored(normalised_YX, plan.pad, tile.reads)
            starts = [(side - min(side, most)) // 2 for side in padded_YX.shape]
            middle = tuple(slice(start, start + most) for start in starts)
            batches.append(np.ascontiguousarray(padded_YX[middle])[None, None])
        return batches


def synthetic_calibration() -> Calibration:
    """Calibrate on synthetic tissue, where nobody gave sections."""
    image_ZYX, _ = synthetic_sections(SECTIONS)
    return Calibration(
        section_ZYX=image_ZYX, source={"data": "synthetic sample", "sections": list(range(SECTIONS))}
    )


def read_calibration(path: Path, held_out: dict[str, Collection[int]]) -> Calibration:
    """Read sections spread evenly over a stack, leaving out those that scores are taken on.

    Parameters
    ----------
    path : Path
        A greyscale TIFF.
    held_out : dict of str to collection of int
        By a stack's sha256 (of its grey values, in C order): the sections that must not be looked at.

    Returns
    -------
    Calibration

    Raises
    ------
    ImageError
        If the stack cannot be read whole.
    UsageError
        If no section is left.
    """
    with open_stack(path) as stack:
        digest = hashlib.sha256()
        for section_YX in stack:
            digest.update(np.ascontiguousarray(section_YX).tobytes())
        data_sha256 = digest.hexdigest()
        allowed = [z for z in range(stack.sections) if z not in held_out.get(data_sha256, ())]
        if not allowed:
            raise UsageError(
                f"{path}: all of its {stack.sections} sections are held out; calibrate on others"
            )
        count = min(SECTIONS, len(allowed))
        chosen = [allowed[i * len(allowed) // count] for i in range(count)]
        return Calibration(
            section_ZYX=read_sections(stack, chosen),
            source={"data_sha256": data_sha256, "sections": chosen},
        )
