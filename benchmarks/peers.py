"""What people would use instead, each on the same weights and the same section, from grey values to probabilities."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isbi_infer.geometry import read_mirrored
from isbi_infer.normalise import intensity_statistics, normalise
from isbi_models import default_model

from .machine import cores

CHECKPOINT = default_model().path.with_suffix(".pth")
_SW_BATCH = 4  # of 1, 4, 8 and 16 none is faster beyond the noise on a CPU, and 1 is slower


@dataclass(frozen=True, slots=True)
class Scene:
    """What every peer gets.

    Attributes
    ----------
    image_YX : ndarray of uint8
        The section.
    segmenter : Segmenter
        Ours.
    folder : Path
        For a peer that needs files.
    """

    image_YX: Any
    segmenter: Any
    folder: Path

    @property
    def device(self) -> str:
        return "cpu" if self.segmenter.provider == "cpu" else "cuda"

    def normalised(self) -> Any:
        """Normalise the whole section by its own statistics, as a tensor (1, 1, Y, X) on the device."""
        import torch

        pixels_YX = normalise(self.image_YX, intensity_statistics(self.image_YX))
        return torch.from_numpy(pixels_YX)[None, None].to(self.device)


Peer = Callable[[], Any]
Build = Callable[[Scene], Peer]


def need(*modules: str) -> None:
    """Skip, by name, what is not installed."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            pytest.skip(f"{module} is not installed")


def ours(scene: Scene) -> Peer:
    return lambda: scene.segmenter(scene.image_YX)


def onnxruntime_whole(scene: Scene) -> Peer:
    """Run the whole padded section in one piece: what "the whole-image result" means."""
    session = scene.segmenter._engine.session.alone()
    pad = scene.segmenter.plan(scene.image_YX.shape).pad
    sides = list(zip(pad, scene.image_YX.shape, strict=True))
    everything = tuple(slice(0, before + side + after) for (before, after), side in sides)
    inside = tuple(slice(before, before + side) for (before, _), side in sides)

    def run():
        pixels_YX = normalise(scene.image_YX, intensity_statistics(scene.image_YX))
        return session.run(read_mirrored(pixels_YX, pad, everything)[None, None])[0, 0][inside]

    return run


def _torch_model(scene: Scene) -> Any:
    """Load the released weights, BatchNorm folded, channels last: torch at its best without lower precision."""
    need("torch", "isbi_export.deployable")
    import torch

    from isbi_export.deployable import Deployable
    from isbi_train.networks.checkpoint import load_checkpoint

    if not CHECKPOINT.exists():
        pytest.skip(f"{CHECKPOINT.name} is not here; it comes with the source tree only")
    torch.set_num_threads(cores())
    model = Deployable(load_checkpoint(CHECKPOINT).load_network())
    return model.to(scene.device, memory_format=torch.channels_last)


def _without_gradients(work: Callable[[], Any]) -> Peer:
    import torch

    def run():
        with torch.inference_mode():
            return work().cpu().numpy()[0, 0]

    return run


def torch_eager(scene: Scene) -> Peer:
    model = _torch_model(scene)
    return _without_gradients(lambda: model(scene.normalised()))


def torchscript(scene: Scene) -> Peer:
    """Trace and freeze, as `isbi-export` writes it."""
    model = _torch_model(scene)
    import torch

    example_NCYX = torch.zeros(1, 1, 64, 96, device=scene.device)
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(model, example_NCYX))
    return _without_gradients(lambda: traced(scene.normalised()))


def monai(roi: int, overlap: float) -> Build:
    """MONAI as it is used: logits blended with Gaussian weights, the sigmoid after that."""

    def build(scene: Scene) -> Peer:
        need("monai")
        import torch
        from monai.inferers import sliding_window_inference

        logits = _torch_model(scene).network

        def run():
            blended_NCYX = sliding_window_inference(
                scene.normalised(), roi, _SW_BATCH, logits, overlap=overlap, mode="gaussian"
            )
            return torch.sigmoid(blended_NCYX)

        return _without_gradients(run)

    return build


def monai_on_onnxruntime(roi: int, overlap: float) -> Build:
    """MONAI's tiling around our session, so that nothing but the tiling differs; probabilities are blended."""

    def build(scene: Scene) -> Peer:
        need("monai", "torch")
        import torch
        from monai.inferers import sliding_window_inference

        session = scene.segmenter._engine.session.alone()

        def predict(batch_NCYX):
            return torch.from_numpy(session.run(batch_NCYX.cpu().numpy())).to(scene.device)

        def run():
            return sliding_window_inference(
                scene.normalised(), roi, _SW_BATCH, predict, overlap=overlap, mode="gaussian"
            )

        return _without_gradients(run)

    return build


def bioimageio(block: int) -> Build:
    """bioimageio.core's tiled prediction of a package that declares our halo; `block` counts the halos in."""

    def build(scene: Scene) -> Peer:
        need("bioimageio.core")
        from .bioimage import tiled_prediction

        halo, side = scene.segmenter.contract.halo, min(scene.image_YX.shape)
        fitting = min(block, side // scene.segmenter.contract.stride * scene.segmenter.contract.stride)
        return tiled_prediction(scene.image_YX, scene.folder, block=max(fitting, 2 * halo + 16), halo=halo)

    return build


OURS = "isbi-infer"
WHOLE = "ONNX Runtime, whole image"
PEERS: dict[str, Build] = {
    OURS: ours,
    WHOLE: onnxruntime_whole,
    "torch eager, whole image": torch_eager,
    "TorchScript, whole image": torchscript,
    "MONAI, roi 256, overlap 0.25": monai(256, 0.25),
    "MONAI, roi 256, overlap 0.5": monai(256, 0.5),
    "MONAI, roi 512, overlap 0.5": monai(512, 0.5),
    "MONAI on our session, roi 256, overlap 0.25": monai_on_onnxruntime(256, 0.25),
    "bioimageio.core, block 704": bioimageio(704),
    "bioimageio.core, block 1216": bioimageio(1216),
}


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
