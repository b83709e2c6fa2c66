"""ONNX files read with the ``onnx`` package, strictly: whatever is damaged is a `ModelError` and no other exception.

Protobuf itself takes much that no ONNX file should be: two files in one, names that are no text, fields that stand
twice. And the ``onnx`` package raises nearly anything on numbers that do not fit their shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, SparseTensorProto, TensorProto, ValueInfoProto

from isbi_infer.errors import ModelError

Array = npt.NDArray[Any]
Dim = int | str | None

_HIGHEST_RANK = 32
# Element types that shape arithmetic meets and that NumPy has.
DTYPES: Mapping[int, type[np.generic]] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip
_VALUE_FIELDS = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s", AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g", AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings", AttributeProto.TENSORS: "tensors", AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor", AttributeProto.SPARSE_TENSORS: "sparse_tensors",
}  # fmt: skip


def damaged(what: str) -> ModelError:
    """Return the error for a file that is not what it should be."""
    return ModelError(f"cannot load the model: it is damaged or no ONNX file ({what})")


def read_onnx(content: bytes) -> onnx.ModelProto:
    """Read an ONNX file.

    Parameters
    ----------
    content : bytes
        The whole file.

    Returns
    -------
    onnx.ModelProto
        All names in it are text, and no opset, initialiser or attribute stands twice.

    Raises
    ------
    ModelError
        If the file is damaged or no ONNX file.
    """
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's implementations agree on no class
        raise damaged(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if not model.HasField("graph"):
        raise damaged("there is no graph in it")
    _require_text(model)
    graph = model.graph
    _require_once("opset", (domain_of(opset) for opset in model.opset_import))
    _require_once("initialiser", (tensor_name(tensor) for tensor in initialisers_of(graph)))
    for node in graph.node:
        _require_once("attribute", (attribute.name for attribute in node.attribute))
    for tensor in initialisers_of(graph):
        shape_of(tensor)
    return model


def _require_text(message: Message) -> None:
    """Raise `ModelError` if a name anywhere is no UTF-8, which protobuf returns as bytes."""
    for descriptor, value in message.ListFields():
        if descriptor.type in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_STRING):
            parts = [value] if isinstance(value, (str, bytes, Message)) else value
            for part in parts:
                if isinstance(part, Message):
                    _require_text(part)
                elif not isinstance(part, str):
                    raise damaged(f"{descriptor.name} {part!r} is not UTF-8")


def _require_once(what: str, keys: Iterable[str]) -> None:
    found: set[str] = set()
    for key in keys:
        if key in found:
            raise damaged(f"{what} {key!r} stands twice")
        found.add(key)


def domain_of(holder: onnx.NodeProto | onnx.OperatorSetIdProto | onnx.FunctionProto) -> str:
    """Return the domain of an operation; that of the standard is the empty string."""
    return "" if holder.domain == "ai.onnx" else str(holder.domain)


def initialisers_of(graph: onnx.GraphProto) -> list[TensorProto | SparseTensorProto]:
    """Return the numbers that a graph starts from."""
    return [*graph.initializer, *graph.sparse_initializer]


def tensor_name(tensor: TensorProto | SparseTensorProto) -> str:
    """Return a tensor's name."""
    return str(tensor.values.name if isinstance(tensor, SparseTensorProto) else tensor.name)


def shape_of(tensor: TensorProto | SparseTensorProto) -> tuple[int, ...]:
    """Return a tensor's shape.

    Raises
    ------
    ModelError
        If there can be no such tensor.
    """
    dims = tuple(tensor.dims)
    if len(dims) > _HIGHEST_RANK or min(dims, default=0) < 0 or prod(size or 1 for size in dims) >> 60:
        raise damaged(f"tensor {tensor_name(tensor)!r} has shape {dims}")
    return dims


def numbers_of(tensor: TensorProto | SparseTensorProto, most: int) -> Array | None:
    """Decode a tensor.

    Parameters
    ----------
    tensor : TensorProto or SparseTensorProto
        Stored numbers.
    most : int
        Larger tensors are left alone.

    Returns
    -------
    ndarray or None
        None if there are too many numbers, if they are sparse or in another file, or if NumPy has no such type.

    Raises
    ------
    ModelError
        If there are more or fewer numbers than the shape says.
    """
    shape = shape_of(tensor)
    if isinstance(tensor, SparseTensorProto) or prod(shape) > most or tensor.data_type not in DTYPES:
        return None
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        return None
    try:
        numbers = onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # whatever its conversions run into
        raise damaged(f"tensor {tensor.name!r}: {' '.join(str(error).split())}") from error
    return np.asarray(numbers, DTYPES[tensor.data_type])


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of an operation: int, float, str, protobuf messages, or tuples of one of them."""
    return {attribute.name: _value_of(attribute) for attribute in node.attribute}


def _value_of(attribute: AttributeProto) -> Any:
    used = _VALUE_FIELDS.get(attribute.type)
    value = getattr(attribute, used) if used else None
    if isinstance(value, bytes):
        return _text(value)
    if value is None or isinstance(value, (int, float, Message)):
        return value
    return tuple(_text(part) if isinstance(part, bytes) else part for part in value)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def dims_of(value: ValueInfoProto) -> tuple[Dim, ...] | None:
    """Return the shape of a graph's input or output.

    Returns
    -------
    tuple of int, str or None
        Sizes, names of sizes, and None where neither is known; None where even the rank is not.
    """
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in dims)
