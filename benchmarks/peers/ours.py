"""This project in each precision, and what "the whole-image result" means."""

from __future__ import annotations

from isbi_infer import Segmenter
from isbi_infer.errors import DependencyError, UsageError

from .task import AT_ONCE, Build, Peer, Task


def ours(task: Task) -> Peer:
    return _peer(task, task.segmenter)


def ours_in(precision: str, provider: str | None = None) -> Build:
    """Return the released model in another precision, or on another device, than was asked for."""

    def build(task: Task) -> Peer:
        import pytest

        try:
            segmenter = Segmenter(provider=provider or task.segmenter.provider, precision=precision)
        except (UsageError, DependencyError) as reason:
            pytest.skip(str(reason))
        return _peer(task, segmenter)

    return build


def _peer(task: Task, segmenter: Segmenter) -> Peer:
    plan = segmenter.plan(task.image_YX.shape).section
    return Peer(
        run=lambda: segmenter(task.image_YX),
        does=f"{len(plan.tiles)} tiles with the exact halo" if len(plan.tiles) > 1 else AT_ONCE,
        precision=segmenter.precision,
        overhead=plan.overhead,
    )


def onnxruntime_whole(task: Task) -> Peer:
    """Run the whole padded section in one piece."""
    backend, whole = task.reference_backend(), task.padded()
    return Peer(
        run=lambda: whole.crop(backend.run(whole.batch(task.normalised()))),
        does=AT_ONCE,
        precision="fp32",
        overhead=whole.overhead,
    )
