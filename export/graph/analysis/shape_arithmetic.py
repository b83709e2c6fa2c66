"""Computing the small tensors of a graph that hold shapes: what exporters write between ``Shape`` and ``Reshape``."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from onnx import SparseTensorProto, TensorProto

from isbi_export.graph.analysis.extent import Unproved
from isbi_export.graph.analysis.reading import DTYPES, Array, numbers_of
from isbi_export.graph.analysis.tensor_info import Call, broadcast_shape

MOST_ELEMENTS = 4096  # no shape has more numbers, and weights are not worth computing


def constant(call: Call) -> Array | TensorProto | SparseTensorProto:
    """Return what a ``Constant`` holds."""
    for name, dtype in (("value_int", np.int64), ("value_ints", np.int64)):
        if name in call.attributes:
            return np.array(call.attributes[name], dtype)
    for name in ("value_float", "value_floats"):
        if name in call.attributes:
            return np.array(call.attributes[name], np.float32)
    for name in ("value", "sparse_value"):
        if isinstance(held := call.attributes.get(name), (TensorProto, SparseTensorProto)):
            return held
    raise Unproved("holds no numbers")


def computed(call: Call) -> Array | None:
    """Compute an operation on known numbers.

    Parameters
    ----------
    call : Call
        The operation; its inputs need not be known.

    Returns
    -------
    ndarray or None
        None if an input is unknown, the result large, or the operation none of shape arithmetic.

    Raises
    ------
    Unproved
        If the operation is invalid.
    """
    kind = call.node.op_type
    if kind == "Shape":
        shape = call.required(0).shape
        start, end = call.attribute("start", 0), call.attribute("end", len(shape))
        return np.array(shape[start:end], np.int64)
    if kind == "Size":
        return np.array(prod(call.required(0).shape), np.int64)
    known = [tensor.value for tensor in call.inputs if tensor is not None]
    if kind not in _OPERATIONS or any(value is None for value in known) or _result_is_large(call):
        return None
    values = [None if tensor is None else tensor.value for tensor in call.inputs]
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(_OPERATIONS[kind](call, *values))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unproved(f"cannot be computed ({' '.join(str(error).split())})") from error
    return result if result.size <= MOST_ELEMENTS else None


def _result_is_large(call: Call) -> bool:
    """Return whether a result is large, before it is computed; operations not listed never enlarge their input."""
    kind = call.node.op_type
    shapes = [tensor.shape for tensor in call.inputs if tensor is not None]
    if kind == "ConstantOfShape":
        return prod(call.integers(0) or ()) > MOST_ELEMENTS
    if kind == "Expand":
        return prod(broadcast_shape([shapes[0], call.integers(1) or ()])) > MOST_ELEMENTS
    if kind == "Tile":
        return prod(shapes[0]) * prod(call.integers(1) or ()) > MOST_ELEMENTS
    if kind == "Range":
        start, limit, delta = (float(call.required(number).value) for number in range(3))  # type: ignore[arg-type]
        return not delta or (limit - start) / delta > MOST_ELEMENTS
    if kind in ("Gather", "Concat", "MatMul"):
        return sum(map(prod, shapes)) > MOST_ELEMENTS or prod(map(prod, shapes)) > MOST_ELEMENTS**2
    return prod(broadcast_shape(shapes)) > MOST_ELEMENTS if kind in _BROADCASTING else False


def _divide(_: Call, a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    quotient = np.abs(a) // np.abs(b)  # ONNX rounds towards zero
    return np.asarray(np.where((a < 0) != (b < 0), -quotient, quotient), a.dtype)


def _modulo(call: Call, a: Array, b: Array) -> Array:
    return np.asarray(np.fmod(a, b) if call.attribute("fmod", 0) else np.mod(a, b))


def _slice(call: Call, x: Array, *steering: Array | None) -> Array:
    if call.opset < 10:
        lists = [call.attribute(name, ()) for name in ("starts", "ends", "axes")]
    else:
        lists = [() if given is None else given.reshape(-1).tolist() for given in steering]
    starts, ends, axes, steps = (*lists, (), ())[:4]
    count = len(starts)
    for start, end, axis, step in zip(starts, ends, axes or range(count), steps or (1,) * count, strict=True):
        # An end before the first element, going backwards: None is NumPy's word for it.
        stop = None if step < 0 and end < -x.shape[axis] else end
        x = x[(slice(None),) * call.dim(axis, x.ndim) + (slice(start, stop, step),)]
    return x


def _axes(call: Call, given: Array | None, default: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if given is not None:
        return tuple(given.reshape(-1).tolist())
    return call.attribute("axes", ()) or default


def _squeeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, _axes(call, axes, None))


def _unsqueeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    return np.expand_dims(x, _axes(call, axes, ()) or ())


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(call: Call, x: Array, axes: Array | None = None) -> Any:
        dims = _axes(call, axes, None)
        if dims is None and call.attribute("noop_with_empty_axes", 0):
            return x
        return np.asarray(function(x, axis=dims, keepdims=bool(call.attribute("keepdims", 1)))).astype(
            x.dtype
        )

    return reduce


def reshaped(old: tuple[int, ...], new: tuple[int, ...], *, zero_is_zero: bool) -> tuple[int, ...]:
    """Fill in the zeros and the -1 of a ``Reshape``."""
    sizes = [
        old[i] if size == 0 and not zero_is_zero and i < len(old) else size for i, size in enumerate(new)
    ]
    rest = prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or min(sizes, default=0) < -1 or (-1 in sizes and (not rest or prod(old) % rest)):
        raise Unproved(f"reshapes {list(old)} to {list(new)}")
    return tuple(prod(old) // rest if size == -1 else size for size in sizes)


def _reshape(call: Call, x: Array, shape: Array) -> Array:
    zero_is_zero = bool(call.attribute("allowzero", 0))
    return x.reshape(reshaped(x.shape, tuple(shape.tolist()), zero_is_zero=zero_is_zero))


def _cast(call: Call, x: Array) -> Array:
    return x.astype(DTYPES[call.attribute("to", 0)])


def _constant_of_shape(call: Call, shape: Array) -> Array:
    held = call.attributes.get("value")
    value = numbers_of(held, MOST_ELEMENTS) if isinstance(held, TensorProto) else np.zeros(1, np.float32)
    return np.full(tuple(shape.tolist()), value)


def _ufunc(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, *values: function(*values)


_BROADCASTING: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Equal": np.equal, "Less": np.less,
    "LessOrEqual": np.less_equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "And": np.logical_and,
    "Or": np.logical_or, "Where": np.where, "Pow": np.power,
    "Min": lambda *values: np.minimum.reduce(np.broadcast_arrays(*values)),
    "Max": lambda *values: np.maximum.reduce(np.broadcast_arrays(*values)),
}  # fmt: skip

_PLAIN: dict[str, Callable[..., Any]] = {
    **_BROADCASTING,
    "Floor": np.floor, "Ceil": np.ceil, "Round": np.round, "Neg": np.negative, "Abs": np.abs, "Sqrt": np.sqrt,
    "Not": np.logical_not, "Identity": np.asarray, "Range": np.arange,
    "Expand": lambda x, shape: x * np.ones(tuple(shape.tolist()), x.dtype),
    "Tile": lambda x, repeats: np.tile(x, tuple(repeats.tolist())),
}  # fmt: skip

_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: _ufunc(function) for name, function in _PLAIN.items()},
    "Div": _divide,
    "Mod": _modulo,
    "Cast": _cast,
    "CastLike": lambda _, x, like: x.astype(like.dtype),
    "Concat": lambda call, *parts: np.concatenate(parts, call.attribute("axis", 0)),
    "ConstantOfShape": _constant_of_shape,
    "Gather": lambda call, x, indices: np.take(x, indices, axis=call.attribute("axis", 0)),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": lambda call, x: x.transpose(call.attribute("perm", ()) or None),
    "Unsqueeze": _unsqueeze,
}  # fmt: skip
