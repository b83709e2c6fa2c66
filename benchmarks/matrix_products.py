"""Products of two square matrices, by precision and library: each makes its own, for one thread."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

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
    "fp32": {"ONNX Runtime": _onnxruntime_product, "NumPy": _numpy_product},
    "bf16": {"torch": _torch_bf16},
    "int8": {
        "ONNX Runtime": lambda side: _onnxruntime_product(side, integer=True),
        "torch": _torch_int8,
    },
}
