"""What a network's graph alone shows about tiling: its stride, how far it looks, and whether anything in it is global.

The graph is followed on paper, operation by operation, for a large image whose size has many divisors. Every tensor
carries the pixels that its elements depend on (`isbi_export.graph.analysis.extent`), so that the figures are exact and
no bound from kernel sizes. It is followed a second time for a size that has no divisor but the stride found: what comes
out otherwise depends on the image's size, as where a network pads its input to some multiple.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, lcm, prod
from typing import NamedTuple

import numpy as np
import onnx

from isbi_export.graph.analysis.extent import Extent, Unproved
from isbi_export.graph.analysis.operators import ALWAYS_GLOBAL, IN_PLACE, follow, from_tensor
from isbi_export.graph.analysis.reading import dims_of, domain_of, initialisers_of, read_onnx, tensor_name
from isbi_export.graph.analysis.tensor_info import AXES, BATCH, Call, TensorInfo, X, Y

_DIVISIBLE = 2**8 * 3**2 * 5 * 7
# Of batch, Y and X: pairwise different, so that no dimension is taken for another.
_FACTORS, _PRIMES = (1009, 5, 7), (2003, 1013, 1019)
_FLOAT32_BYTES = 4


class Context(NamedTuple):
    """Pixels per side beyond a line of the stride grid that outputs on this side of the line depend on."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class GraphAnalysis:
    """What a graph shows about tiling.

    Where `exact` is false, `stride`, `context` and `halo` are those of its local operations as far as they could be
    followed: less is certainly wrong, and more may be needed.

    Attributes
    ----------
    stride : int
        What tile origins and sizes must be multiples of, in pixels: the period after which the network repeats, or so
        many of them that an image of one stride is large enough to be mirrored as the network does it.
    context : Context
        The farthest pixels beyond a grid line that any kept output pixel depends on.
    halo : int
        The largest context, up to the next multiple of `stride`.
    exact : bool
        Whether tiles are proved to equal the whole-image result: the same operations on the same numbers. Runtimes
        round the last bit of a few functions by place (ONNX Runtime's CPU: Softplus, Mish, Log, Sin, LRN).
    reasons : tuple of str
        Why not, each naming the operation and its node.
    flops_per_pixel : float
        Floating-point operations per input pixel, two for a multiplication and addition; convolutions only.
    activation_bytes_per_pixel : float
        Most bytes of float32 tensors alive at once per input pixel, when operations run in the graph's order and those
        that work element by element reuse memory. What a runtime needs for copies and other layouts comes on top.
    """

    stride: int
    context: Context
    halo: int
    exact: bool
    reasons: tuple[str, ...]
    flops_per_pixel: float
    activation_bytes_per_pixel: float


def analyse(model: bytes | onnx.ModelProto) -> GraphAnalysis:
    """Analyse a network from one image (N, C, Y, X) to one output of the same size; of several outputs, the first.

    Other inputs of shape (N, 1, 1, 1) are taken for numbers that belong to a section as a whole.

    Parameters
    ----------
    model : bytes or onnx.ModelProto
        A whole ONNX file, or what `isbi_export.graph.analysis.reading.read_onnx` returned.

    Returns
    -------
    GraphAnalysis

    Raises
    ------
    ModelError
        If the file is damaged. A graph that cannot be followed is no error, but not `exact`.
    """
    proto = read_onnx(model) if isinstance(model, bytes) else model
    first = _Walk(proto, _FACTORS, _DIVISIBLE)
    divisible = lcm(_DIVISIBLE, first.stride)
    if divisible != _DIVISIBLE:
        first = _Walk(proto, _FACTORS, divisible)
    reasons = list(dict.fromkeys(first.reasons))
    if not reasons:
        second = _Walk(proto, _PRIMES, first.stride)
        if second.reasons or second.dependences() != first.dependences():
            reasons = second.reasons or [
                "cannot be proved: what pixels depend on changes with the image's size"
            ]
    return GraphAnalysis(
        stride=first.stride,
        context=first.context,
        halo=ceil(max(first.context) / first.stride) * first.stride,
        exact=not reasons,
        reasons=tuple(reasons),
        flops_per_pixel=first.flops / first.pixels,
        activation_bytes_per_pixel=_FLOAT32_BYTES * first.peak_elements() / first.pixels,
    )


class _Walk:
    """One way through the graph, for one size of image."""

    def __init__(self, model: onnx.ModelProto, factors: tuple[int, int, int], multiple_of: int) -> None:
        self.graph = model.graph
        self.opsets = {domain_of(opset): opset.version for opset in model.opset_import}
        self.functions = {(domain_of(function), function.name) for function in model.functions}
        self.reasons: list[str] = []
        self.flops = 0
        self.smallest = 1
        self.pixels = 1
        self.tensors: dict[str, TensorInfo | None] = {}  # None: cannot be followed
        self.nodes = _needed(self.graph)
        image = self._image((factors[0], factors[1] * multiple_of, factors[2] * multiple_of))
        extents: dict[int, list[Extent]] = {Y: [], X: []}
        if image:
            for node in self.nodes:
                self._step(node)
            extents = self._judge(image)
        period = lcm(*(extent.period_px for axis in (Y, X) for extent in extents[axis]))
        self.stride = period * ceil(self.smallest / period)
        self.context = Context(*_beyond(extents[Y]), *_beyond(extents[X]))

    def _image(self, lengths: tuple[int, int, int]) -> TensorInfo | None:
        graph = self.graph
        self.tensors = {tensor_name(tensor): from_tensor(tensor) for tensor in initialisers_of(graph)}
        inputs = [value for value in graph.input if value.name not in self.tensors]
        # What a section as a whole has, such as its mean: one number for each image of a batch.
        constants = [value for value in inputs if (dims_of(value) or ())[1:] == (1, 1, 1)]
        images = [value for value in inputs if value not in constants]
        if len(images) != 1 or not graph.output:
            self.reasons.append(
                f"cannot be proved: the graph has {len(images)} inputs and {len(graph.output)} outputs, not one"
            )
            return None
        image = self._first(images[0], lengths)
        self.tensors[images[0].name] = image
        for value in constants:
            batch = image.extents.get(BATCH) if image else None
            shape = (image.shape[0] if image and batch else 1, 1, 1, 1)
            self.tensors[value.name] = TensorInfo(shape, {BATCH: batch} if batch else {})
        return image

    def _first(self, value: onnx.ValueInfoProto, lengths: tuple[int, int, int]) -> TensorInfo | None:
        written = dims_of(value) or (None,) * 4
        if len(written) != 4 or 0 in written:
            self.reasons.append(
                f"cannot be proved: input {value.name!r} is no (N, C, Y, X) but {list(written)}"
            )
            return None
        shape, extents = [1, 1, 1, 1], {}
        for dim, axis in ((0, BATCH), (1, None), (2, Y), (3, X)):
            given = written[dim]
            if isinstance(given, int):
                shape[dim] = given
            elif axis is not None:
                shape[dim] = lengths[axis]
            if axis is not None and shape[dim] > 1:
                zeros = np.zeros((2, 1, 1, 1, 1), np.int64)
                extents[axis] = Extent(dim, Fraction(1), shape[dim], zeros)
            if axis in (Y, X) and isinstance(given, int):
                self.reasons.append(
                    f"cannot be proved: the {AXES[axis]} of input {value.name!r} is fixed at {given}"
                )
        self.pixels = shape[0] * shape[2] * shape[3]
        return TensorInfo(tuple(shape), extents)

    def _step(self, node: onnx.NodeProto) -> None:
        missing = [name for name in node.input if name and name not in self.tensors]
        twice = [name for name in node.output if name in self.tensors]
        inputs = [self.tensors.get(name) if name else None for name in node.input]
        unknown = any(name and tensor is None for name, tensor in zip(node.input, inputs, strict=True))
        made: list[TensorInfo] = []
        call = Call(node, inputs, self.opsets.get(domain_of(node), 1))
        if missing or twice:
            self._blame(node, f"reads or writes {(missing or twice)[0]!r} out of order")
        elif unknown:
            if call.name in ALWAYS_GLOBAL:
                call.remarks.append("looks at the whole image")
        elif any(isinstance(value, onnx.GraphProto) for value in call.attributes.values()):
            self._blame(node, "runs another graph")
        elif (domain_of(node), node.op_type) in self.functions:
            self._blame(node, "is a function of the model's own")
        else:
            try:
                made = follow(call)
            except Unproved as why:
                self._blame(node, str(why))
        self.flops += call.flops
        self.smallest = max([self.smallest, *(call.smallest.get(axis, 1) for axis in (Y, X))])
        self.reasons += [f"{_called(node)} {remark}" for remark in call.remarks]
        self.tensors |= dict.fromkeys(node.output) | dict(zip(node.output, made, strict=False))

    def _blame(self, node: onnx.NodeProto, why: str) -> None:
        self.reasons.append(f"cannot be proved: {_called(node)} {why}")

    def _judge(self, image: TensorInfo) -> dict[int, list[Extent]]:
        """Compare the output's places with the input's, and return the extents that the figures are read from."""
        name = self.graph.output[0].name
        output = self.tensors.get(name)
        if output is None:
            if not self.reasons:
                self.reasons.append(f"cannot be proved: nothing computes output {name!r}")
        elif len(output.shape) != 4 or any(output.shape[dim] != image.shape[dim] for dim in (0, 2, 3)):
            self.reasons.append(
                f"cannot be proved: output {name!r} has shape {list(output.shape)} for {list(image.shape)}"
            )
        elif any(not _lies_on(output.extents.get(axis), extent) for axis, extent in image.extents.items()):
            self.reasons.append(f"cannot be proved: places of output {name!r} are not those of the image")
        else:
            if BATCH in output.extents and (output.extents[BATCH].ends < 0).any():
                self.reasons.append(f"cannot be proved: images of one batch mix in output {name!r}")
            return {axis: [output.extents[axis]] if axis in output.extents else [] for axis in (Y, X)}
        seen = [tensor for tensor in self.tensors.values() if tensor]
        return {axis: [t.extents[axis] for t in seen if _starts_and_ends_with(t, axis)] for axis in (Y, X)}

    def dependences(self) -> list[tuple[int, int, Fraction, Fraction, bytes]]:
        """Return what must not depend on the image's size: of every tensor its grid, its margins and its extent."""
        return [
            (
                axis,
                extent.dim,
                extent.step,
                tensor.shape[extent.dim] * extent.step - extent.image,
                extent.ends.tobytes(),
            )
            for tensor in self.tensors.values()
            if tensor
            for axis, extent in tensor.extents.items()
        ]

    def peak_elements(self) -> int:
        """Count the elements that are alive at once, at most."""
        last_use = {name: at for at, node in enumerate(self.nodes) for name in node.input}
        last_use |= {value.name: len(self.nodes) for value in self.graph.output}
        sizes = {
            name: prod(tensor.shape) for name, tensor in self.tensors.items() if tensor and tensor.of_image
        }
        written = {name for node in self.nodes for name in node.output}
        alive = peak = sum(size for name, size in sizes.items() if name not in written)
        for at, node in enumerate(self.nodes):
            made = sum(sizes.get(name, 0) for name in node.output)
            dying = [sizes.get(name, 0) for name in dict.fromkeys(node.input) if last_use[name] == at]
            in_place = node.op_type in IN_PLACE and made in dying
            peak = max(peak, alive if in_place else alive + made)
            alive += made - sum(dying)
        return peak


def _needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the operations that the first output depends on, in the graph's order."""
    wanted = {value.name for value in graph.output[:1]}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.append(node)
    return nodes[::-1]


def _called(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {(node.name or next(iter(node.output), ''))!r}"


def _lies_on(extent: Extent | None, image: Extent) -> bool:
    return extent is not None and (extent.dim, extent.step) == (image.dim, image.step)


def _starts_and_ends_with(tensor: TensorInfo, axis: int) -> bool:
    """Return whether a tensor covers just the image, so that its elements' places are known."""
    extent = tensor.extents.get(axis)
    return extent is not None and tensor.shape[extent.dim] * extent.step == extent.image


def _beyond(extents: list[Extent]) -> tuple[int, int]:
    """Return how far the elements of one period look before its first and behind its last pixel."""
    before = max((-int(extent.ends[0].min()) for extent in extents), default=0)
    behind = max((-int(extent.ends[1].min()) - extent.period_px + 1 for extent in extents), default=0)
    return max(before, 0), max(behind, 0)
