"""This project in each precision, and what "the whole-image result" means."""

from __future__ import annotations

from isbi_infer import Segmenter
from isbi_infer.errors import UsageError

from .scene import AT_ONCE, Build, Peer, Scene


def ours(scene: Scene) -> Peer:
    return _peer(scene, scene.segmenter)


def ours_in(precision: str) -> Build:
    """Give the released model in another precision than was asked for."""

    def build(scene: Scene) -> Peer:
        import pytest

        try:
            segmenter = Segmenter(provider=scene.segmenter.provider, precision=precision)
        except UsageError as reason:
            pytest.skip(str(reason))
        return _peer(scene, segmenter)

    return build


def _peer(scene: Scene, segmenter: Segmenter) -> Peer:
    plan = segmenter.plan(scene.image_YX.shape)
    return Peer(
        run=lambda: segmenter(scene.image_YX),
        does=f"{len(plan.tiles)} tiles with the exact halo" if len(plan.tiles) > 1 else AT_ONCE,
        precision=segmenter.contract.precision.replace("float", "fp"),
        overhead=plan.overhead,
    )


def onnxruntime_whole(scene: Scene) -> Peer:
    """Run the whole padded section in one piece."""
    session, whole = scene.reference._engine.session.alone(), scene.padded()
    return Peer(
        run=lambda: whole.crop(session.run(whole.batch(scene.normalised()))),
        does=AT_ONCE,
        precision="fp32",
        overhead=whole.overhead,
    )
