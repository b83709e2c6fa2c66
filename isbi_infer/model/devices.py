"""The table of devices: what may compute, what it needs, in which precisions, and how a run is laid out on it.

The choices of the command line, the doctor, "auto" and the messages are all read from here. A new device is a row here
and a class in `isbi_infer.backends`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from isbi_infer.backends.device import Arithmetic, Device
from isbi_infer.errors import UsageError
from isbi_infer.terminal import did_you_mean

if TYPE_CHECKING:
    from isbi_infer.backends.base import Backend

ModelFormat = Literal["onnx", "torchscript"]
# For type checkers, which cannot read the table, and for command lines; a test holds them against it.
ProviderName = Literal["auto", "cpu", "cuda", "openvino", "tensorrt"]
PrecisionName = Literal["auto", "bf16", "fp16", "fp32", "int8"]

_ONNXRUNTIME_WHEELS = (  # all of them provide the module onnxruntime and overwrite each other
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)
_GPU_TILE = 2**21  # pixels of a batch that fill a large GPU
_CPU_TILE = 2304**2  # time per pixel is flat up to here, and 4096 x 4096 takes four tiles
# What onnxruntime and torch take on the CPU per byte of live float32 activations; float16 is computed in float32.
_FP32 = Arithmetic(name="fp32", file="float32", memory=2.3)
_FP16 = Arithmetic(name="fp16", file="float16", memory=2.3)
_INT8 = Arithmetic(name="int8", file="int8", memory=1.0)

DEVICES = (
    Device(
        name="cuda",
        formats=("onnx",),
        backend="isbi_infer.backends.onnxruntime:OnnxSession",
        kind="gpu",
        runtime_name="CUDAExecutionProvider",
        wheels=("onnxruntime-gpu", "ort-nightly-gpu"),
        clashes=_ONNXRUNTIME_WHEELS,
        remedy="pip uninstall -y onnxruntime && pip install 'isbi-infer[gpu]'",
        proof="the session lists it first, with falling back to the CPU forbidden, and a tile runs on it",
        arithmetic=(_FP16, _FP32),
        tile_pixels=_GPU_TILE,
        batch_pixels=_GPU_TILE,
        fixed_batch=True,
        options={
            "use_tf32": "0",
            "prefer_nhwc": "1",
            "fuse_conv_bias": "1",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "arena_extend_strategy": "kSameAsRequested",
        },
        memory_space="cuda",
        repair="pip install --upgrade 'isbi-infer[gpu]'",
    ),
    Device(
        name="tensorrt",
        formats=("onnx",),
        backend="isbi_infer.backends.onnxruntime:OnnxSession",
        kind="gpu",
        runtime_name="TensorrtExecutionProvider",
        wheels=("onnxruntime-gpu", "ort-nightly-gpu"),
        clashes=_ONNXRUNTIME_WHEELS,
        remedy="pip uninstall -y onnxruntime && pip install 'isbi-infer[gpu]' tensorrt",
        proof="the session lists it first, with falling back to the CPU forbidden, and a tile runs on it",
        arithmetic=(_FP16, _FP32),
        tile_pixels=_GPU_TILE,
        batch_pixels=_GPU_TILE,
        fixed_batch=True,
        memory_space="cuda",
        in_auto=False,  # building its engines takes minutes
    ),
    Device(
        name="openvino",
        formats=("onnx",),
        backend="isbi_infer.backends.openvino:OpenVinoModel",
        kind="cpu",
        runtime_name="CPU",
        wheels=("openvino", "openvino-nightly"),
        clashes=("openvino", "openvino-nightly"),
        remedy="pip install 'isbi-infer[openvino]'",
        proof="the compiled model reports the precision asked for, in its hint and in its convolutions",
        arithmetic=(
            # What is not quantised runs in bf16 where the processor has it, else in fp32.
            Arithmetic(name="int8", file="int8", memory=0.5, gated=True),
            Arithmetic(name="bf16", file="float32", memory=0.8, gated=True),
            Arithmetic(name="fp32", file="float32", memory=1.3, gated=True),
            # Slower than fp32 without AMX-FP16.
            Arithmetic(name="fp16", file="float16", memory=0.8, gated=True),
        ),
        tile_pixels=_CPU_TILE,
        fixed_batch=True,
        auto_pixels_per_core=3_000_000,  # 0.3 s more to start, when its compiled model is kept already
        repair="pip install --force-reinstall 'isbi-infer[openvino]'",
    ),
    Device(
        name="cuda",
        formats=("torchscript",),
        backend="isbi_infer.backends.torchscript:TorchScriptSession",
        kind="gpu",
        runtime_name="cuda",
        wheels=("torch",),
        clashes=(),
        remedy="pip install torch --index-url https://download.pytorch.org/whl/cu130",
        proof="a convolution on it gives the right values, and the model's result lies on it",
        arithmetic=(_FP16, _FP32),
        tile_pixels=_GPU_TILE,
        batch_pixels=_GPU_TILE,
        fixed_batch=True,
    ),
    Device(
        name="cpu",
        formats=("onnx",),
        backend="isbi_infer.backends.onnxruntime:OnnxSession",
        kind="cpu",
        runtime_name="CPUExecutionProvider",
        wheels=_ONNXRUNTIME_WHEELS,
        clashes=_ONNXRUNTIME_WHEELS,
        remedy="pip install 'isbi-infer[cpu]'",
        proof="the session lists it first",
        arithmetic=(
            _INT8,
            _FP32,
            replace(_FP16, apart=2e-7),  # computed in float32, by kernels that are chosen by size
        ),
        tile_pixels=_CPU_TILE,
        repair="pip install --force-reinstall 'isbi-infer[cpu]'",
    ),
    Device(
        name="cpu",
        formats=("torchscript",),
        backend="isbi_infer.backends.torchscript:TorchScriptSession",
        kind="cpu",
        runtime_name="cpu",
        wheels=("torch",),
        clashes=(),
        remedy="pip install 'isbi-infer[train]'",
        proof="torch is imported",
        arithmetic=(_INT8, _FP32, _FP16),
        tile_pixels=_CPU_TILE,
    ),
)


def device_names() -> tuple[str, ...]:
    """Return what ``--provider`` takes beside "auto": the CPU first, each name once."""
    return tuple(sorted({row.name for row in DEVICES}, key=lambda name: (name != "cpu", name)))


def precision_names() -> tuple[str, ...]:
    """Return what ``--precision`` takes beside "auto"."""
    return tuple(dict.fromkeys(a.name for row in DEVICES for a in row.arithmetic))


def rows(model_format: ModelFormat, name: str) -> Iterator[Device]:
    """Return the rows that may run a model, in the order in which "auto" tries them.

    Parameters
    ----------
    model_format : {"onnx", "torchscript"}
        Of the model file.
    name : str
        "auto" or the name of a device.

    Raises
    ------
    UsageError
        If there is no device of this name, or none that runs such a file.
    """
    if name != "auto" and name not in device_names():
        meant = did_you_mean(name, device_names())
        raise UsageError(f"unknown provider {name!r}; choose auto, {', '.join(device_names())}{meant}")
    found = [
        row
        for row in DEVICES
        if model_format in row.formats and (row.in_auto if name == "auto" else row.name == name)
    ]
    if not found:
        runs = ", ".join(dict.fromkeys(row.name for row in DEVICES if model_format in row.formats))
        raise UsageError(
            f"a TorchScript model runs on {runs} only, not on {name!r}; use the .onnx file for that"
        )
    yield from found


def open_backend(
    content: bytes, device: Device | str, arithmetic: Arithmetic | None = None, threads: int | None = None
) -> Backend:
    """Open a model file on a device, and prove that it runs there.

    Parameters
    ----------
    content : bytes
        The whole ONNX or TorchScript file.
    device : Device or str
        A row of the table, or its name for an ONNX file.
    arithmetic : Arithmetic, optional
        One of the row's; float32 when not given.
    threads : int, optional
        Processor threads of one call of `run`.

    Raises
    ------
    DependencyError
        If the runtime is missing, or the device does not really run here.
    ModelError
        If the runtime cannot load the model.
    """
    row = next(rows("onnx", device)) if isinstance(device, str) else device
    chosen = arithmetic or next(a for a in row.arithmetic if a.name == "fp32")
    module, _, name = row.backend.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)(content, row, chosen, threads)
    return backend
