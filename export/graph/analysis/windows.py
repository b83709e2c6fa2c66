"""Operations that read neighbours: convolution, pooling, resizing, padding, slicing.

What they do is read from the specification, https://onnx.ai/onnx/operators, of every version of each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, lcm, prod

import numpy as np

from isbi_export.graph.analysis.extent import Extent, IntArray, Unproved
from isbi_export.graph.analysis.tensor_info import Call, TensorInfo

_LARGEST_FACTOR = 64

Read = Callable[[Extent, int], Extent]


@dataclass(frozen=True, slots=True)
class _Window:
    """A window along one dimension: its parameters, and how many elements come out."""

    kernel: int
    stride: int
    dilation: int
    pad: int
    size: int


def convolution(call: Call) -> TensorInfo:
    """``Conv``, ``ConvInteger``, ``QLinearConv`` and ``FusedConv``."""
    x, weight = call.required(0), _weight(call, 3 if call.node.op_type == "QLinearConv" else 1)
    channels_out, per_group, *kernel = weight.shape
    groups = call.attribute("group", 1)
    _require_channels(x, weight, groups * per_group)
    if groups < 1 or channels_out % groups:
        raise Unproved(f"has {groups} groups for {channels_out} channels")
    x = _through_channels(x, groups, channels_out)
    out = _slid(x, [0, 0], _windows(call, x, kernel))
    call.flops += 2 * prod(out.shape) * prod(weight.shape[1:])
    return out


def transposed_convolution(call: Call) -> TensorInfo:
    """``ConvTranspose``."""
    x, weight = call.required(0), _weight(call, 1)
    channels_in, per_group, *kernel = weight.shape
    groups = call.attribute("group", 1)
    _require_channels(x, weight, channels_in)
    if groups < 1 or channels_in % groups:
        raise Unproved(f"has {groups} groups for {channels_in} channels")
    call.flops += 2 * prod(x.shape) * prod(weight.shape[1:])
    x = _through_channels(x, groups, per_group * groups)
    out = x
    for dim, w in enumerate(_transposed_windows(call, x, kernel), start=2):
        out = _read(
            out,
            dim,
            w.size,
            lambda r, n, w=w: r.spread(n, w.kernel, w.stride, w.dilation, w.pad),  # type: ignore[misc]
        )
    return out


def pooling(call: Call) -> TensorInfo:
    """``MaxPool``, ``AveragePool`` and ``LpPool``."""
    x = call.required(0)
    kernel: tuple[int, ...] = call.attribute("kernel_shape", ())
    if len(kernel) != len(x.shape) - 2 or not kernel:
        raise Unproved(f"has kernel_shape={list(kernel)} for {len(x.shape)} dimensions")
    return _slid(x, [0, 0], _windows(call, x, kernel))


def _weight(call: Call, number: int) -> TensorInfo:
    weight = call.required(number)
    if weight.of_image:
        raise Unproved("has a kernel that is computed from the image")
    if len(weight.shape) != len(call.required(0).shape) or len(weight.shape) < 3:
        raise Unproved(f"has a kernel of shape {list(weight.shape)}")
    return weight


def _require_channels(x: TensorInfo, weight: TensorInfo, channels: int) -> None:
    if x.shape[1] != channels:
        raise Unproved(f"has a kernel of shape {list(weight.shape)} for {x.shape[1]} channels")


def _through_channels(x: TensorInfo, groups: int, channels_out: int) -> TensorInfo:
    """Let every channel depend on those of its group."""
    if x.axis_at(1) is not None:
        raise Unproved("takes an axis of the image for channels")
    shape = (x.shape[0], channels_out, *x.shape[2:])
    if groups == 1:
        return x.resized(1, channels_out)
    grouped = x.reshaped((x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])).mixed([2])
    wide = grouped.resized(2, channels_out // groups)
    return wide.reshaped(shape)


def _read(x: TensorInfo, dim: int, size: int, read: Read) -> TensorInfo:
    """Replace one dimension by what reads neighbours along it."""
    axis = x.axis_at(dim)
    if axis is None:
        return x.resized(dim, size)
    extents = {**x.extents, axis: read(x.extents[axis], x.shape[dim])}
    others = {key: extent.mixed([dim]) for key, extent in extents.items() if key != axis}
    return x.with_extents((*x.shape[:dim], size, *x.shape[dim + 1 :]), {**extents, **others})


def _slid(x: TensorInfo, untouched: Sequence[int], windows: Sequence[_Window]) -> TensorInfo:
    for dim, w in enumerate(windows, start=len(untouched)):
        x = _read(x, dim, w.size, lambda r, n, w=w: r.window(n, w.kernel, w.stride, w.dilation, w.pad))  # type: ignore[misc]
    return x


def _windows(call: Call, x: TensorInfo, kernel: Sequence[int]) -> list[_Window]:
    """Read kernel, strides, dilations and pads, with what auto_pad and ceil_mode make of them."""
    spatial = x.shape[2:]
    if tuple(call.attribute("kernel_shape", tuple(kernel))) != tuple(kernel) or min(kernel) < 1:
        raise Unproved(f"has a kernel of {list(kernel)}")
    strides, dilations = call.sizes("strides", len(kernel), 1), call.sizes("dilations", len(kernel), 1)
    pads, auto_pad = call.sizes("pads", 2 * len(kernel), 0), call.attribute("auto_pad", "NOTSET")
    windows = []
    for i, size in enumerate(spatial):
        span = (kernel[i] - 1) * dilations[i] + 1
        before, after = pads[i], pads[i + len(kernel)]
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            total = max((-(-size // strides[i]) - 1) * strides[i] + span - size, 0)
            before = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            after = total - before
        elif auto_pad == "VALID":
            before = after = 0
        elif auto_pad != "NOTSET":
            raise Unproved(f"has auto_pad={auto_pad!r}")
        room = size + before + after - span
        count = room // strides[i] + 1
        # A last, incomplete window counts if it begins before the padding at the end.
        if call.attribute("ceil_mode", 0) and room % strides[i] and count * strides[i] < size + before:
            count += 1
        if count < 1:
            raise Unproved(f"has a kernel of {kernel[i]} for {size} elements")
        windows.append(_Window(kernel[i], strides[i], dilations[i], before, count))
    return windows


def _transposed_windows(call: Call, x: TensorInfo, kernel: Sequence[int]) -> list[_Window]:
    spatial, count = x.shape[2:], len(kernel)
    if tuple(call.attribute("kernel_shape", tuple(kernel))) != tuple(kernel) or min(kernel) < 1:
        raise Unproved(f"has a kernel of {list(kernel)}")
    strides, dilations = call.sizes("strides", count, 1), call.sizes("dilations", count, 1)
    pads, more = call.sizes("pads", 2 * count, 0), call.sizes("output_padding", count, 0)
    auto_pad, wanted = call.attribute("auto_pad", "NOTSET"), call.attribute("output_shape", ())
    windows = []
    for i, size in enumerate(spatial):
        whole = (size - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + more[i]
        before, after = pads[i], pads[i + count]
        if wanted or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            total = whole - (wanted[-count:][i] if len(wanted) >= count else size * strides[i])
            # Which side the odd pixel falls to has changed between versions and runtimes.
            if total % 2 or total < 0:
                raise Unproved(f"pads by {total} pixels on two sides")
            before = after = total // 2
        elif auto_pad == "VALID":
            before = after = 0
        elif auto_pad != "NOTSET":
            raise Unproved(f"has auto_pad={auto_pad!r}")
        windows.append(_Window(kernel[i], strides[i], dilations[i], before, whole - before - after))
    return windows


def padding(call: Call) -> TensorInfo:
    """``Pad``."""
    x = call.required(0)
    rank = len(x.shape)
    pads = call.attribute("pads", ()) or call.attribute("paddings", ()) or call.integers(1) or ()
    dims = [call.dim(dim, rank) for dim in call.integers(3) or range(rank)]
    if len(pads) != 2 * len(dims):
        raise Unproved(f"has pads={list(pads)}")
    befores, afters = pads[: len(dims)], pads[len(dims) :]
    if call.attribute("mode", "constant") == "wrap":
        padded = [dim for dim, b, a in zip(dims, befores, afters, strict=True) if b or a]
        call.looks_at(x, padded, "wraps around {}")
    for dim, before, after in zip(dims, befores, afters, strict=True):
        if before or after:
            if call.attribute("mode", "constant") == "reflect":
                _require_more_than(call, x, dim, max(before, after))
            size = x.shape[dim] + before + after
            x = _read(x, dim, size, lambda r, n, b=before: r.window(n, 1, 1, 1, b))  # type: ignore[misc]
    return x


def _require_more_than(call: Call, x: TensorInfo, dim: int, elements: int) -> None:
    """Record that an image must be so large that a dimension has more elements than it is mirrored by."""
    axis = x.axis_at(dim)
    if axis is None:
        return
    extent = x.extents[axis]
    margin = x.shape[dim] * extent.step - extent.image
    call.smallest[axis] = max(call.smallest.get(axis, 1), ceil((elements + 1) * extent.step - margin))


def slicing(call: Call) -> TensorInfo:
    """``Slice``."""
    x = call.required(0)
    rank = len(x.shape)
    if call.opset < 10:
        lists = [call.attribute(name, ()) for name in ("starts", "ends", "axes")]
    else:
        lists = [call.integers(number) or () for number in range(1, 5)]
    starts, ends, axes, steps = (*lists, ())[:4]
    dims = [call.dim(dim, rank) for dim in axes or range(len(starts))]
    for dim, start, end, step in zip(dims, starts, ends, steps or (1,) * len(starts), strict=True):
        if not step:
            raise Unproved("has a step of 0")
        places = range(*slice(start, end, step).indices(x.shape[dim]))
        if x.axis_at(dim) is None:
            x = x.picked(dim, np.arange(places.start, places.stop, step), len(places))
        elif step < 0:
            raise Unproved("mirrors the image")
        elif not places:
            raise Unproved("leaves nothing of the image")
        else:
            x = _read(
                x,
                dim,
                len(places),
                lambda r, n, p=places: r.window(n, 1, p.step, 1, -p.start),  # type: ignore[misc]
            )
    return x


def resizing(call: Call) -> TensorInfo:
    """``Resize`` and ``Upsample``."""
    x = call.required(0)
    rank = len(x.shape)
    dims = [call.dim(dim, rank) for dim in call.attribute("axes", ()) or range(rank)]
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unproved("keeps the aspect ratio")
    sizes = call.integers(3)
    if sizes is None:
        scales = _scales(call)
        sizes = tuple(int(x.shape[dim] * scale) for dim, scale in zip(dims, scales, strict=True))
        factors = dict(zip(dims, scales, strict=True))
    else:
        factors = {dim: Fraction(size, max(x.shape[dim], 1)) for dim, size in zip(dims, sizes, strict=True)}
    for dim, size in zip(dims, sizes, strict=True):
        if size < 1:
            raise Unproved(f"resizes {x.shape[dim]} elements to {size}")
        if factors[dim] != 1:
            factor = factors[dim]
            x = _read(x, dim, size, lambda r, n, f=factor: _resampled(call, r, n, f))  # type: ignore[misc]
    return x


def _scales(call: Call) -> list[Fraction]:
    written = call.attributes.get("scales")
    if not isinstance(written, tuple):
        tensor = call.required(1 if call.node.op_type == "Upsample" or call.opset < 11 else 2)
        if tensor.value is None:
            raise Unproved("has scales that cannot be computed beforehand")
        written = tuple(tensor.value.reshape(-1).tolist())
    if not all(isinstance(scale, float) and 0 < scale < 1e6 for scale in written):
        raise Unproved(f"has scales {written}")
    return [Fraction(scale) for scale in written]


def _resampled(call: Call, extent: Extent, size: int, factor: Fraction) -> Extent:
    """Follow one axis of a ``Resize``; coordinates as integers over a common denominator, so exactly."""
    mode = call.attribute("mode", "nearest")
    whole = max(factor.numerator, factor.denominator)
    if min(factor.numerator, factor.denominator) != 1 or whole > _LARGEST_FACTOR:
        raise Unproved(f"resizes by {float(factor):.4g}, which is no small integer; to a fixed size?")
    if whole & (whole - 1) and (mode != "nearest" or factor < 1):
        # Runtimes compute coordinates in float32, which is exact for powers of two only.
        call.remarks.append(f"resizes by {float(factor):.4g}, with rounding that depends on the place")
    if call.attribute("antialias", 0):
        raise Unproved("smooths before it resizes")
    modern = call.node.op_type == "Resize" and call.opset >= 11
    placing = call.attribute("coordinate_transformation_mode", "half_pixel" if modern else "asymmetric")
    period = lcm(extent.period, factor.denominator)
    element = np.arange(int(period * factor))[:, None]
    scale = 2 * factor.numerator
    if placing == "asymmetric":
        place = 2 * element * factor.denominator
    elif placing == "tf_half_pixel_for_nn":
        place = (2 * element + 1) * factor.denominator
    else:
        if placing not in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
            call.remarks.append(f"depends on the image's size, with coordinates {placing!r}")
        place = (2 * element + 1) * factor.denominator - factor.numerator
    index, valid = _taps(call, mode, place, scale, modern=modern)
    return extent.repeated(period).read(index, size, extent.step / factor, valid)


def _taps(
    call: Call, mode: str, place: IntArray, scale: int, *, modern: bool
) -> tuple[IntArray, np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None]:
    """Return the elements that are read at the coordinates ``place / scale``."""
    floor = place // scale
    if mode == "nearest":
        rounding = call.attribute("nearest_mode", "round_prefer_floor" if modern else "floor")
        if rounding == "round_prefer_floor":
            return -((scale // 2 - place) // scale), None
        if rounding == "round_prefer_ceil":
            return (place + scale // 2) // scale, None
        return {"floor": floor, "ceil": -(-place // scale)}[rounding], None
    if mode == "linear":
        exact = place % scale == 0
        return np.concatenate([floor, floor + 1], axis=1), np.concatenate([exact | True, ~exact], axis=1)
    if mode == "cubic":
        return floor + np.arange(-1, 3), None
    raise Unproved(f"has mode={mode!r}")
