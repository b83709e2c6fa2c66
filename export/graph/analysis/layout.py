"""Operations that move elements and compute nothing: reshaping, transposing, joining, picking."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from isbi_export.graph.analysis.extent import Unproved
from isbi_export.graph.analysis.shape_arithmetic import reshaped
from isbi_export.graph.analysis.tensor_info import (
    Call,
    Flattened,
    TensorInfo,
    broadcast,
    broadcast_shape,
    concatenated,
)


def reshape(call: Call) -> TensorInfo:
    """``Reshape``."""
    x = call.required(0)
    wanted = call.attribute("shape", ()) or call.integers(1) or ()
    shape = reshaped(x.shape, wanted, zero_is_zero=bool(call.attribute("allowzero", 0)))
    if x.flattened and x.flattened.shape == shape:
        return x.flattened.mixed(range(len(shape)))
    try:
        return x.reshaped(shape)
    except Flattened as remark:
        call.remarks.append(str(remark))
        return TensorInfo(shape, flattened=x)


def flatten(call: Call) -> TensorInfo:
    """``Flatten``."""
    x = call.required(0)
    at = call.attribute("axis", 1)
    at = at % len(x.shape) if at < 0 else at
    return x.reshaped((prod(x.shape[:at]), prod(x.shape[at:])))


def squeeze(call: Call) -> TensorInfo:
    """``Squeeze``."""
    x, rank = call.required(0), len(call.required(0).shape)
    given = call.attribute("axes", ()) or call.integers(1)
    dims = (
        [dim for dim, n in enumerate(x.shape) if n == 1]
        if given is None or given == ()
        else [call.dim(d, rank) for d in given]
    )
    return x.reshaped([size for dim, size in enumerate(x.shape) if dim not in dims])


def unsqueeze(call: Call) -> TensorInfo:
    """``Unsqueeze``."""
    x = call.required(0)
    given = call.attribute("axes", ()) or call.integers(1) or ()
    rank = len(x.shape) + len(given)
    dims, sizes = {call.dim(dim, rank) for dim in given}, iter(x.shape)
    return x.reshaped([1 if dim in dims else next(sizes) for dim in range(rank)])


def transpose(call: Call) -> TensorInfo:
    """``Transpose``."""
    x = call.required(0)
    return x.transposed(call.attribute("perm", ()) or range(len(x.shape))[::-1])


def depth_to_space(call: Call) -> TensorInfo:
    """``DepthToSpace``, as ONNX defines it: two reshapes and a transposition."""
    x, b = call.required(0), call.attribute("blocksize", 1)
    n, c, h, w = x.shape
    if call.attribute("mode", "DCR") == "DCR":
        split = x.reshaped((n, b, b, c // b**2, h, w)).transposed((0, 3, 4, 1, 5, 2))
    else:
        split = x.reshaped((n, c // b**2, b, b, h, w)).transposed((0, 1, 4, 2, 5, 3))
    return split.reshaped((n, c // b**2, h * b, w * b))


def space_to_depth(call: Call) -> TensorInfo:
    """``SpaceToDepth``."""
    x, b = call.required(0), call.attribute("blocksize", 1)
    n, c, h, w = x.shape
    split = x.reshaped((n, c, h // b, b, w // b, b)).transposed((0, 3, 5, 1, 2, 4))
    return split.reshaped((n, c * b**2, h // b, w // b))


def concat(call: Call) -> TensorInfo:
    """``Concat``."""
    tensors = [tensor for tensor in call.inputs if tensor is not None]
    rank = len(call.required(0).shape)
    if any(len(tensor.shape) != rank for tensor in tensors):
        raise Unproved("joins tensors of different rank")
    return concatenated(tensors, call.axis(rank, 1))


def split(call: Call) -> list[TensorInfo]:
    """``Split``."""
    x = call.required(0)
    dim = call.axis(len(x.shape), 0)
    count = len(call.node.output)
    each = -(-x.shape[dim] // count)
    sizes = call.attribute("split", ()) or call.integers(1) or ()
    sizes = sizes or (*(each,) * (count - 1), x.shape[dim] - each * (count - 1))
    if sum(sizes) != x.shape[dim]:
        raise Unproved(f"splits {x.shape[dim]} into {list(sizes)}")
    starts = np.cumsum([0, *sizes]).tolist()
    return [x.picked(dim, slice(start, start + n), n) for start, n in zip(starts, sizes, strict=False)]


def gather(call: Call) -> TensorInfo:
    """``Gather``."""
    x, indices = call.required(0), call.required(1)
    dim = call.axis(len(x.shape), 0)
    if indices.value is None or len(indices.shape) > 1:
        raise Unproved("picks places that cannot be computed beforehand")
    which = indices.value.reshape(-1).astype(np.int64)
    if ((which < -x.shape[dim]) | (which >= x.shape[dim])).any():
        raise Unproved(f"picks {which.tolist()} of {x.shape[dim]}")
    taken = x.picked(dim, which % x.shape[dim], which.size)
    return taken if indices.shape else taken.reshaped((*x.shape[:dim], *x.shape[dim + 1 :]))


def expand(call: Call) -> TensorInfo:
    """``Expand``."""
    x, shape = call.required(0), call.integers(1) or ()
    wide = broadcast([x, TensorInfo(broadcast_shape([x.shape, shape]))])
    # One number everywhere varies nowhere.
    return replace(wide, fixed=x.fixed and prod(x.shape) > 1)


def constant_of_shape(call: Call) -> TensorInfo:
    """``ConstantOfShape``, when it is large."""
    return TensorInfo(call.integers(0) or ())
