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

from isbi_export.seen import gathered, seen_in
from isbi_export.synthetic import synthetic_sections
from isbi_infer.errors import UsageError
from isbi_infer.pixels.normalise import normalise
from isbi_infer.plan.neighbours import around
from isbi_infer.plan.scaling import choose_scaling
from isbi_infer.plan.tiles import plan_section
from isbi_infer.run.tissue import Tissue
from isbi_infer.volumes import open_stack

SECTIONS = 8
_LONGEST = 1024  # pixels of a section's middle; all tensors of a network are held at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """Sections to calibrate on.

    Attributes
    ----------
    sections : tuple of tuples of Tissue
        Of sections that are not blank, each in the middle of the neighbours that the network sees.
    source : dict
        What the contract records about them: ``sections`` and the stack's ``data_sha256``, those of several stacks in
        a list ``stacks``, or that they are synthetic.
    notes : tuple of str
        What was assumed about the stack.
    """

    sections: tuple[tuple[Tissue, ...], ...]
    source: dict[str, Any]
    notes: tuple[str, ...] = ()

    def batches(self, *, stride: int, border: int) -> list[npt.NDArray[np.float32]]:
        """Return the tissue of each section, normalised and mirrored, or its middle; float32 (1, C, Y, X)."""
        most = _LONGEST // stride * stride
        batches = []
        for seen in self.sections:
            plan = plan_section(seen[len(seen) // 2].pixels_YX.shape, stride=stride, halo=0, border=border)
            (tile,) = plan.tiles
            padded_CYX, statistics = gathered(seen, plan, tile)
            starts = [(side - min(side, most)) // 2 for side in padded_CYX.shape[1:]]
            middle = tuple(slice(start, start + most) for start in starts)
            normalised = [
                normalise(padded_YX[middle], of_section)
                for padded_YX, of_section in zip(padded_CYX, statistics, strict=True)
            ]
            batches.append(np.stack(normalised)[None])
        return batches


def synthetic_calibration(neighbours: int = 0) -> Calibration:
    """Calibrate on synthetic tissue, where nobody gave sections."""
    image_ZYX, _ = synthetic_sections(SECTIONS)
    return Calibration(
        sections=tuple(seen_in([*map(Tissue.of, image_ZYX)], neighbours)),
        source={"data": "synthetic sample", "sections": list(range(SECTIONS))},
    )


def read_calibrations(
    paths: Sequence[Path],
    held_out: dict[str, Collection[int]],
    model_nm: float | None = None,
    neighbours: int = 0,
) -> Calibration:
    """Read sections of several stacks, as many of each; see `read_calibration`."""
    most = ceil(SECTIONS / len(paths))
    parts = [read_calibration(path, held_out, model_nm, most, neighbours) for path in paths]
    if len(parts) == 1:
        return parts[0]
    return Calibration(
        sections=tuple(seen for part in parts for seen in part.sections),
        source={"stacks": [part.source for part in parts]},
        notes=tuple(note for part in parts for note in part.notes),
    )


def read_calibration(
    path: Path,
    held_out: dict[str, Collection[int]],
    model_nm: float | None = None,
    most: int = SECTIONS,
    neighbours: int = 0,
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
    neighbours : int
        Sections on either side that the network sees, too; for one that must not be looked at, the section in the
        middle stands in.

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
        kept = {}
        for z in chosen:
            near = [other if other in allowed else z for other in around(z, stack.sections, neighbours)]
            read = {
                other: Tissue.of(stack.read(other), scaling, nodata=stack.nodata)
                for other in dict.fromkeys(near)
            }
            if not read[z].found.blank:
                kept[z] = tuple(read[other] for other in near)
        if not kept:
            raise UsageError(f"{path}: its sections {chosen} are blank; calibrate on others")
        return Calibration(
            sections=tuple(kept.values()),
            source={"data_sha256": data_sha256, "sections": list(kept)},
            notes=tuple(f"{path}: {note}" for note in (*stack.notes, *notes)),
        )
