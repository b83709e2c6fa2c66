"""Who takes part."""

from __future__ import annotations

from .ours import onnxruntime_whole, ours, ours_in
from .task import Build, Peer, Task, need
from .with_monai import monai, monai_on_onnxruntime, monai_tuned
from .with_openvino import openvino
from .with_torch import torch_bf16, torch_compile, torch_eager, torchscript

OURS = "isbi-infer"
WHOLE = "ONNX Runtime, whole image"
_PRECISIONS = {
    "cpu": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}  # a CPU computes fp16 in fp32, CUDA has no convolution of int8
_ON_GPU = ("fp32", "fp16")
_ON_OPENVINO = ("fp32", "bf16", "int8")


def bioimageio(block: int) -> Build:
    """bioimageio.core's tiled prediction of a package that declares our halo; `block` counts the halos in."""

    def build(task: Task) -> Peer:
        need("bioimageio.core")
        from .with_bioimageio import tiled_prediction

        return tiled_prediction(task, block)

    return build


_SHORT: dict[str, Build] = {
    "torch eager, whole image": torch_eager,
    "torch bf16, whole image": torch_bf16,
    "torch.compile, whole image": torch_compile,
    "TorchScript, whole image": torchscript,
    "OpenVINO f32, whole image": openvino("float32", "f32"),
    "OpenVINO's default, whole image": openvino("float32"),
    "OpenVINO int8, whole image": openvino("int8"),
    "MONAI, roi 256, overlap 0.25": monai(256, 0.25),
    "MONAI, roi 256, overlap 0.25, constant": monai(256, 0.25, "constant"),
    "MONAI, roi 256, overlap 0.5": monai(256, 0.5),
    "MONAI, roi 512, overlap 0.5": monai(512, 0.5),
    "MONAI, tuned": monai_tuned,
    "MONAI on our session, roi 256, overlap 0.25": monai_on_onnxruntime(256, 0.25),
    "bioimageio.core, block 704": bioimageio(704),
    "bioimageio.core, block 1216": bioimageio(1216),
}
_MORE: dict[str, Build] = {
    "MONAI, roi 256, overlap 0.5, constant": monai(256, 0.5, "constant"),
    "MONAI, roi 512, overlap 0.25": monai(512, 0.25),
    "MONAI, roi 512, overlap 0.25, constant": monai(512, 0.25, "constant"),
    "MONAI, roi 512, overlap 0.5, constant": monai(512, 0.5, "constant"),
}


def contenders(provider: str, precision: str, full: bool) -> dict[str, Build]:
    """Name everybody, ours first.

    Parameters
    ----------
    provider, precision : str
        Ours; its other precisions that make sense on `provider` take part too.
    full : bool
        Every combination of MONAI's windows.
    """
    others = [name for name in _PRECISIONS.get(provider, _ON_GPU) if name != precision]
    on_openvino = _ON_OPENVINO if provider == "cpu" else ()
    return {
        OURS: ours,
        **{f"{OURS}, {name}": ours_in(name) for name in others},
        **{f"{OURS}, OpenVINO {name}": ours_in(name, "openvino") for name in on_openvino},
        WHOLE: onnxruntime_whole,
        **_SHORT,
        **(_MORE if full else {}),
    }
