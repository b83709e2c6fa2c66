"""What each operation of ONNX makes of the pixels its inputs depend on, and which ones look at the whole image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from onnx import SparseTensorProto, TensorProto

from isbi_export.graph.analysis import layout
from isbi_export.graph.analysis.extent import Unproved
from isbi_export.graph.analysis.reading import Array, domain_of, numbers_of, shape_of
from isbi_export.graph.analysis.shape_arithmetic import MOST_ELEMENTS, computed, constant
from isbi_export.graph.analysis.tensor_info import Call, TensorInfo, broadcast
from isbi_export.graph.analysis.windows import (
    convolution,
    padding,
    pooling,
    resizing,
    slicing,
    transposed_convolution,
)

Operation = Callable[[Call], TensorInfo | list[TensorInfo]]


def _names(text: str) -> list[str]:
    return text.split()


ELEMENTWISE = _names("""
Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Celu Clip Cos Cosh
Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log
Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign
Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
com.microsoft.Gelu com.microsoft.FastGelu com.microsoft.QuickGelu com.microsoft.BiasGelu com.microsoft.QLinearAdd
com.microsoft.QLinearMul com.microsoft.QLinearSigmoid com.microsoft.QLinearLeakyRelu
""")

# Their other inputs are parameters by channel, or name a type.
_ELEMENTWISE_IN_THE_FIRST = _names("""
BatchNormalization Cast CastLike DequantizeLinear Dropout Identity QuantizeLinear
com.microsoft.DequantizeLinear com.microsoft.QuantizeLinear
""")

# A runtime writes their result over their input.
IN_PLACE = {*ELEMENTWISE, *_ELEMENTWISE_IN_THE_FIRST, *_names("Flatten Reshape Squeeze Unsqueeze")}

# Whatever their input: named where a graph can no longer be followed.
ALWAYS_GLOBAL = _names("""
Attention DFT DynamicQuantizeLinear GRU GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization
InstanceNormalization LSTM MultiHeadAttention NonMaxSuppression NonZero RNN STFT com.microsoft.Attention
com.microsoft.DynamicQuantizeLinear com.microsoft.GroupNorm com.microsoft.MultiHeadAttention
""")


def follow(call: Call) -> list[TensorInfo]:
    """Follow one operation.

    Parameters
    ----------
    call : Call
        Receives remarks.

    Returns
    -------
    list of TensorInfo
        Its first outputs; the others cannot be followed.

    Raises
    ------
    Unproved
        If the operation is unknown or is used in a way whose locality cannot be proved.
    """
    value = None if domain_of(call.node) else computed(call)
    if value is not None:
        return [_known(value)]
    if call.name not in _OPERATIONS:
        raise Unproved("is an operation that is not known here")
    try:
        made = _OPERATIONS[call.name](call)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unproved(f"is used wrongly ({' '.join(str(error).split())})") from error
    return made if isinstance(made, list) else [made]


def _known(value: Array) -> TensorInfo:
    return TensorInfo(value.shape, fixed=True, value=value)


def from_tensor(tensor: TensorProto | SparseTensorProto) -> TensorInfo:
    """Return what is known of numbers in the file."""
    return TensorInfo(shape_of(tensor), fixed=True, value=numbers_of(tensor, MOST_ELEMENTS))


def _constant(call: Call) -> TensorInfo:
    held = constant(call)
    return _known(held) if isinstance(held, np.ndarray) else from_tensor(held)


def _elementwise(call: Call) -> TensorInfo:
    return broadcast([tensor for tensor in call.inputs if tensor is not None])


def _elementwise_in_the_first(call: Call) -> TensorInfo:
    x = call.required(0)
    if call.node.op_type != "CastLike" and any(tensor and tensor.of_image for tensor in call.inputs[1:]):
        raise Unproved("has parameters that are computed from the image")
    training = call.optional(2) if call.node.op_type == "Dropout" else None
    if call.attribute("training_mode", 0) or (
        training and (training.value is None or bool(training.value.any()))
    ):
        call.remarks.append("is in training mode")
    return replace(x, value=None)


def _over_channels(call: Call, x: TensorInfo, dims: Sequence[int], what: str) -> TensorInfo:
    call.looks_at(x, dims, what)
    return replace(x.mixed(dims), value=None)


def _normalisation(call: Call) -> TensorInfo:
    """Normalisations over some dimensions, each output element depending on all of them."""
    x, kind = call.required(0), call.node.op_type
    rank = len(x.shape)
    if kind in ("InstanceNormalization", "GroupNormalization", "GroupNorm"):
        dims = list(range(1 if kind != "InstanceNormalization" else 2, rank))
    elif kind == "MeanVarianceNormalization":
        dims = [call.dim(dim, rank) for dim in call.attribute("axes", (0, 2, 3))]
    elif kind == "LRN":
        dims = [1]
    elif kind in ("LpNormalization", "Hardmax", "LogSoftmax", "Softmax"):
        old = kind != "LpNormalization" and call.opset < 13
        dims = [call.axis(rank, 1 if old else -1)]
        if old:  # it made a matrix of two dimensions, split there
            dims = list(range(dims[0], rank))
    else:
        dims = list(range(call.axis(rank, -1), rank))
    return _over_channels(call, x, dims, "normalises over {}")


def _global_pool(call: Call) -> TensorInfo:
    x = call.required(0)
    return _collapsed(call, x, range(2, len(x.shape)), keep=True)


def _reduction(call: Call) -> TensorInfo:
    x, rank = call.required(0), len(call.required(0).shape)
    if call.node.op_type in ("ArgMax", "ArgMin"):
        dims: Sequence[int] = [call.axis(rank, 0)]
    else:
        given = call.attribute("axes", ()) or call.integers(1) or ()
        dims = sorted({call.dim(dim, rank) for dim in given})
        if not dims and not call.attribute("noop_with_empty_axes", 0):
            dims = range(rank)
    return _collapsed(call, x, dims, keep=bool(call.attribute("keepdims", 1)))


def _collapsed(call: Call, x: TensorInfo, dims: Sequence[int], *, keep: bool) -> TensorInfo:
    call.looks_at(x, dims, "looks at {}")
    extents = {axis: extent.mixed(dims) for axis, extent in x.extents.items() if extent.dim not in dims}
    small = x.with_extents([1 if dim in dims else size for dim, size in enumerate(x.shape)], extents)
    if x.of_image and not extents:
        small = replace(small, fixed=False)
    return small if keep else small.reshaped([size for dim, size in enumerate(x.shape) if dim not in dims])


def _matrix_product(call: Call) -> TensorInfo:
    a, b = call.required(0), call.required(1)
    if call.node.op_type == "Gemm":
        a = a.transposed([1, 0]) if call.attribute("transA", 0) else a
        b = b.transposed([1, 0]) if call.attribute("transB", 0) else b
    if a.of_image and b.of_image:
        call.remarks.append("multiplies tensors that both depend on the image, as attention does")
        raise Unproved("makes a tensor whose places are no longer those of the image")
    x, other, summed = (a, b, len(a.shape) - 1) if a.of_image else (b, a, len(b.shape) - 2)
    if min(len(a.shape), len(b.shape)) < 2 or prod(other.shape[:-2]) != 1 or len(other.shape) > len(x.shape):
        raise Unproved(f"multiplies shapes {list(a.shape)} and {list(b.shape)}")
    if a.shape[-1] != b.shape[-2]:
        raise Unproved(f"multiplies shapes {list(a.shape)} and {list(b.shape)}")
    flat = _collapsed(call, x, [summed], keep=True)
    return flat.resized(summed, b.shape[-1] if x is a else a.shape[-2])


_OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_ELEMENTWISE_IN_THE_FIRST, _elementwise_in_the_first),
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv", "com.microsoft.FusedConv"), convolution),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), pooling),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global_pool),
    **dict.fromkeys(
        _names("""GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax LpNormalization
        MeanVarianceNormalization RMSNormalization Softmax"""),
        _normalisation,
    ),
    **dict.fromkeys(
        _names("""ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
        ReduceSum ReduceSumSquare"""),
        _reduction,
    ),
    **dict.fromkeys(("MatMul", "Gemm"), _matrix_product),
    **dict.fromkeys(("Resize", "Upsample"), resizing),
    "Concat": layout.concat,
    "Constant": _constant,
    "ConstantOfShape": layout.constant_of_shape,
    "ConvTranspose": transposed_convolution,
    "DepthToSpace": layout.depth_to_space,
    "Expand": layout.expand,
    "Flatten": layout.flatten,
    "Gather": layout.gather,
    "Pad": padding,
    "Reshape": layout.reshape,
    "Slice": slicing,
    "SpaceToDepth": layout.space_to_depth,
    "Split": layout.split,
    "Squeeze": layout.squeeze,
    "Transpose": layout.transpose,
    "Unsqueeze": layout.unsqueeze,
}
