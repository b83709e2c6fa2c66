"""Products of two square matrices, by precision and library: each makes its own, for one thread."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from isbi_infer.backends import openvino as backend
from isbi_infer.errors import DependencyError
from isbi_infer.model.devices import rows

Work = Callable[[], Any]


class NotSupportedError(Exception):
    """Why a limit cannot be measured here."""


def needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise NotSupportedError(f"{module} is not installed") from None


def _numbers(side: int, dtype: Any) -> Any:
    random = np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        return random.integers(0, 100, (side, side)).astype(dtype)
    return random.standard_normal((side, side)).astype(dtype)


def _onnxruntime_product(side: int, integer: bool = False) -> Work:
    onnx, onnxruntime = needed("onnx"), needed("onnxruntime")
    make, types = onnx.helper, onnx.TensorProto
    left, right, result = (
        (types.UINT8, np.int8, types.INT32) if integer else (types.FLOAT, np.float32, types.FLOAT)
    )
    graph = make.make_graph(
        [make.make_node("MatMulInteger" if integer else "MatMul", ["a", "b"], ["c"])],
        "product",
        [make.make_tensor_value_info("a", left, [side, side])],
        [make.make_tensor_value_info("c", result, [side, side])],
        [onnx.numpy_helper.from_array(_numbers(side, right), "b")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    binding = session.io_binding()
    binding.bind_ortvalue_input("a", value(_numbers(side, np.uint8 if integer else np.float32)))
    binding.bind_ortvalue_output("c", value(np.zeros((side, side), np.int32 if integer else np.float32)))
    return lambda: session.run_with_iobinding(binding)


def _openvino_product(side: int, precision: str) -> Work:
    """Multiply with a constant matrix, in fp32, bf16 or int8: uint8 by int8, as quantised convolutions do."""
    runtime, hint = _import_openvino(), {"fp32": "f32", "bf16": "bf16", "int8": "f32"}[precision]
    operators, kinds = runtime.opset13, runtime.Type
    if precision == "int8":
        left = operators.parameter([side, side], kinds.u8)
        right = operators.constant(_numbers(side, np.int8))
        scaled = [
            operators.multiply(operators.convert(each, np.float32), np.float32(1 / 128))
            for each in (left, right)
        ]
    else:
        left = operators.parameter([side, side], kinds.f32)
        scaled = [left, operators.constant(_numbers(side, np.float32))]
    product = operators.matmul(*scaled, False, False)
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # or all would share the first core
    }
    compiled = runtime.Core().compile_model(runtime.Model([product], [left]), "CPU", settings)
    computed = _computed_in(compiled)
    if computed != precision:
        raise NotSupportedError(f"it computes {precision} in {computed}")
    request = compiled.create_infer_request()
    kind = np.uint8 if precision == "int8" else np.float32
    request.set_input_tensor(runtime.Tensor(_numbers(side, kind)))
    return request.infer


def _computed_in(compiled: Any) -> str:
    """Return the precision of the product that OpenVINO compiled."""
    short = {"f32": "fp32", "u8": "int8", "i8": "int8"}
    for node in compiled.get_runtime_model().get_ops():
        known = node.get_rt_info()
        if str(known["layerType"].astype(str)) in ("MatMul", "FullyConnected"):
            found = str(known["runtimePrecision"].astype(str))
            return short.get(found, found)
    return "nothing"


def _import_openvino() -> Any:
    """Import OpenVINO as `isbi_infer` does, without its telemetry."""
    try:
        return backend.import_openvino(next(rows("onnx", "openvino")))
    except DependencyError as reason:
        raise NotSupportedError(str(reason)) from None


def _numpy_product(side: int) -> Work:
    a, b, c = (_numbers(side, np.float32) for _ in range(3))
    return lambda: np.matmul(a, b, out=c)


def _torch_bf16(side: int) -> Work:
    torch = needed("torch")
    a, b, c = (torch.randn(side, side).bfloat16() for _ in range(3))
    return lambda: torch.mm(a, b, out=c)


def _torch_int8(side: int) -> Work:
    torch = needed("torch")
    a, b = (torch.randint(-128, 127, (side, side), dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(a, b)


MATRIX_PRODUCTS: dict[str, dict[str, Callable[[int], Work]]] = {
    "fp32": {
        "ONNX Runtime": _onnxruntime_product,
        "NumPy": _numpy_product,
        "OpenVINO": partial(_openvino_product, precision="fp32"),
    },
    "bf16": {"torch": _torch_bf16, "OpenVINO": partial(_openvino_product, precision="bf16")},
    "int8": {
        "ONNX Runtime": partial(_onnxruntime_product, integer=True),
        "torch": _torch_int8,
        "OpenVINO": partial(_openvino_product, precision="int8"),
    },
}
