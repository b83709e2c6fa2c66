"""Sections that show a network's ranges before it is quantised, seen as `isbi_infer` shows them to it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_export.synthetic import synthetic_sections
from isbi_infer.errors import UsageError
from isbi_infer.pixels.normalise import normalise
from isbi_infer.plan.scaling import choose_scaling
from isbi_infer.plan.tiles import plan_section, read_mirrored
from isbi_infer.run.tissue import Tissue
from isbi_infer.volumes import open_stack

SECTIONS = 8
_LONGEST = 1024  # pixels of a section's middle; all tensors of a network are held at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """Sections to calibrate on.

    Attributes
    ----------
    sections : tuple of Tissue
        Of sections that are not blank.
    source : dict
        What the contract records about them: ``sections`` and the stack's ``data_sha256``, those of several stacks in
        a list ``stacks``, or that they are synthetic.
    notes : tuple of str
        What was assumed about the stack.
    """

    sections: tuple[Tissue, ...]
    source: dict[str, Any]
    notes: tuple[str, ...] = ()

    def batches(self, *, stride: int, border: int) -> list[npt.NDArray[np.float32]]:
        """Return the tissue of each section, normalised and mirrored, or its middle; float32 (1, 1, Y, X)."""
        most = _LONGEST // stride * stride
        batches = []
        for tissue in self.sections:
            plan = plan_section(tissue.pixels_YX.shape, stride=stride, halo=0, border=border)
            (tile,) = plan.tiles
            normalised_YX = normalise(tissue.pixels_YX, tissue.statistics)
            padded_YX = read_mirrored(normalised_YX, plan.pad, tile.reads)
            starts = [(side - min(side, most)) // 2 for side in padded_YX.shape]
            middle = tuple(slice(start, start + most) for start in starts)
            batches.append(np.ascontiguousarray(padded_YX[middle])[None, None])
        return batches


def synthetic_calibration() -> Calibration:
    """Calibrate on synthetic tissue, where nobody gave sections."""
    image_ZYX, _ = synthetic_sections(SECTIONS)
    return Calibration(
        sections=tuple(map(Tissue.of, image_ZYX)),
        source={"data": "synthetic sample", "sections": list(range(SECTIONS))},
    )


def read_calibrations(
    paths: Sequence[Path], held_out: dict[str, Collection[int]], model_nm: float | None = None
) -> Calibration:
    """Read sections of several stacks, as many of each; see `read_calibration`."""
    parts = [read_calibration(path, held_out, model_nm, ceil(SECTIONS / len(paths))) for path in paths]
    if len(parts) == 1:
        return parts[0]
    return Calibration(
        sections=tuple(tissue for part in parts for tissue in part.sections),
        source={"stacks": [part.source for part in parts]},
        notes=tuple(note for part in parts for note in part.notes),
    )


def read_calibration(
    path: Path,
    held_out: dict[str, Collection[int]],
    model_nm: float | None = None,
    most: int = SECTIONS,
) -> Calibration:
    """Read sections spread evenly over a stack, leaving out those that scores are taken on.

    Parameters
    ----------
    path : Path
        A greyscale TIFF.
    held_out : dict of str to collection of int
        By a stack's sha256 (of its grey values, in C order): the sections that must not be looked at.
    model_nm : float or None
        Side of a pixel in the model's training data, to which sections of another size are brought, as in inference.
    most : int
        How many sections are read.

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
        count = min(most, len(allowed))
        chosen = [allowed[i * len(allowed) // count] for i in range(count)]
        scaling, notes = choose_scaling(model_nm, None, stack.pixel_size, stored=True)
        found = {z: Tissue.of(stack.read(z), scaling, nodata=stack.nodata) for z in chosen}
        kept = {z: tissue for z, tissue in found.items() if not tissue.found.blank}
        if not kept:
            raise UsageError(f"{path}: its sections {chosen} are blank; calibrate on others")
        return Calibration(
            sections=tuple(kept.values()),
            source={"data_sha256": data_sha256, "sections": list(kept)},
            notes=tuple(f"{path}: {note}" for note in (*stack.notes, *notes)),
        )
