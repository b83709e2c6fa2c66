"""What is said of a run: before it, its plan with the time that it takes; after it, what it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from isbi_infer.plan.plain import plain_of
from isbi_infer.plan.run import RunPlan
from isbi_infer.terminal import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A plan, and the time that it would take.

    Attributes
    ----------
    plan : RunPlan
        What would be run.
    seconds : float
        Computing time, from one timed batch.
    """

    plan: RunPlan
    seconds: float

    def to_plain(self) -> dict[str, Any]:
        """Return plain types: the figures that matter on their own, and the whole plan."""
        plan = self.plan
        return {
            "provider": plan.device,
            "precision": plan.precision,
            "shape": [plan.source.sections, *plan.source.shape],
            "tile_shape": list(plan.section.tile_shape),
            "tiles": len(plan.section.tiles),
            "overhead": plan.section.overhead,
            "halo": plan.section.halo,
            "batch": plan.batch,
            "workers": plan.workers,
            "memory_bytes": plan.memory_bytes,
            "seconds": self.seconds,
            "blocks": plan.layout.count if plan.layout else plan.source.sections,
            "notes": list(plan.notes),
            "plan": plain_of(plan),
        }

    def __str__(self) -> str:
        plan, tile_shape = self.plan, self.plan.section.tile_shape
        height, width = plan.source.shape
        return (
            f"{plan.device} {plan.precision}: {counted(plan.source.sections or 1, 'section')} of {height} x {width}, "
            f"each in {counted(len(plan.section.tiles), 'tile')} of {tile_shape[0]} x {tile_shape[1]} with a halo of "
            f"{plan.section.halo}\n"
            f"overhead {plan.section.overhead:.3f}, batch {plan.batch} x {counted(plan.workers, 'worker')}, about "
            f"{plan.memory_bytes / 2**20:.0f} MiB for activations, about {self.seconds:.1f} s of computing"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What one run of `Segmenter.segment_file` did.

    Attributes
    ----------
    output : str
        The file written.
    provider : str
        The device that really computed.
    precision : str
        Of the arithmetic, as proved.
    sections : int
        Sections segmented.
    shape : tuple of int
        Of the output, (Y, X) or (Z, Y, X).
    seconds : float
        Wall time from opening the input to the finished output.
    megapixels_per_second : float
        Input pixels that this run computed, over `seconds`.
    model_sha256 : str
        Of the model file.
    unlike : float or None
        How far sections are from what the model was trained on, 1 being as far as that goes: the farthest of those that
        this run looked at, without what an earlier or another one made of a volume. None where none was.
    notes : tuple of str
        What was done to the input that a reader must know.
    """

    output: str
    provider: str
    precision: str
    sections: int
    shape: tuple[int, ...]
    seconds: float
    megapixels_per_second: float
    model_sha256: str
    unlike: float | None
    notes: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return plain types."""
        return asdict(self)
