"""What a network's graph alone says about tiling: its stride, how far it looks, and whether anything in it is global.

The graph is followed on paper, operation by operation, for a large image whose size has many divisors. Every tensor
carries which pixels its elements depend on (`isbi_export.graph.analysis.reach`), so that the figures are exact and not a
bound from kernel sizes. It is followed a second time for a size that has no divisor but the stride found: what comes
out otherwise depends on the image's size, as where a network pads its input to some multiple.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, lcm, prod
from typing import NamedTuple

import numpy as np

from isbi_export.graph.analysis.onnxfile import Graph, Node, OnnxFile, Value, read_onnx
from isbi_export.graph.analysis.operators import ALWAYS_GLOBAL, IN_PLACE, follow, from_tensor
from isbi_export.graph.analysis.reach import Reach, Unproved
from isbi_export.graph.analysis.trace import AXES, BATCH, Call, Trace, X, Y

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
    """What a graph says about tiling.

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
        Whether tiles are proved to give the whole-image result: the same operations on the same numbers. Runtimes round
        the last bit of a few functions by place (ONNX Runtime's CPU: Softplus, Mish, Log, Sin, LRN).
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


def analyse(model: bytes | OnnxFile) -> GraphAnalysis:
    """Analyse a network from one image (N, C, Y, X) to one output of the same size; of several outputs, the first.

    Other inputs of shape (N, 1, 1, 1) are taken for numbers that belong to a section as a whole.

    Parameters
    ----------
    model : bytes or OnnxFile
        A whole ONNX file.

    Returns
    -------
    GraphAnalysis

    Raises
    ------
    ModelError
        If the file is damaged. A graph that cannot be followed is no error, but not `exact`.
    """
    file = model if isinstance(model, OnnxFile) else read_onnx(model)
    first = _Walk(file, _FACTORS, _DIVISIBLE)
    divisible = lcm(_DIVISIBLE, first.stride)
    if divisible != _DIVISIBLE:
        first = _Walk(file, _FACTORS, divisible)
    reasons = list(dict.fromkeys(first.reasons))
    if not reasons:
        second = _Walk(file, _PRIMES, first.stride)
        if second.reasons or second.course() != first.course():
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

    def __init__(self, file: OnnxFile, factors: tuple[int, int, int], multiple_of: int) -> None:
        self.file = file
        self.reasons: list[str] = []
        self.flops = 0
        self.smallest = 1
        self.pixels = 1
        self.traces: dict[str, Trace | None] = {}  # None: cannot be followed
        self.nodes = _needed(file.graph)
        image = self._image((factors[0], factors[1] * multiple_of, factors[2] * multiple_of))
        reaches: dict[int, list[Reach]] = {Y: [], X: []}
        if image:
            for node in self.nodes:
                self._step(node)
            reaches = self._judge(image)
        period = lcm(*(reach.period_px for axis in (Y, X) for reach in reaches[axis]))
        self.stride = period * ceil(self.smallest / period)
        self.context = Context(*_beyond(reaches[Y]), *_beyond(reaches[X]))

    def _image(self, lengths: tuple[int, int, int]) -> Trace | None:
        graph = self.file.graph
        self.traces = {name: from_tensor(tensor) for name, tensor in graph.initialisers.items()}
        inputs = [value for value in graph.inputs if value.name not in graph.initialisers]
        # What a section as a whole has, such as its mean: one number for each image of a batch.
        constants = [value for value in inputs if value.shape and tuple(value.shape[1:]) == (1, 1, 1)]
        images = [value for value in inputs if value not in constants]
        if len(images) != 1 or not graph.outputs:
            self.reasons.append(
                f"cannot be proved: the graph has {len(images)} inputs and {len(graph.outputs)} outputs, not one"
            )
            return None
        image = self._first(images[0], lengths)
        self.traces[images[0].name] = image
        for value in constants:
            batch = image.reaches.get(BATCH) if image else None
            shape = (image.shape[0] if image and batch else 1, 1, 1, 1)
            self.traces[value.name] = Trace(shape, {BATCH: batch} if batch else {})
        return image

    def _first(self, value: Value, lengths: tuple[int, int, int]) -> Trace | None:
        written = value.shape or (None,) * 4
        if len(written) != 4 or 0 in written:
            self.reasons.append(
                f"cannot be proved: input {value.name!r} is no (N, C, Y, X) but {list(written)}"
            )
            return None
        shape, reaches = [1, 1, 1, 1], {}
        for dim, axis in ((0, BATCH), (1, None), (2, Y), (3, X)):
            given = written[dim]
            if isinstance(given, int):
                shape[dim] = given
            elif axis is not None:
                shape[dim] = lengths[axis]
            if axis is not None and shape[dim] > 1:
                zeros = np.zeros((2, 1, 1, 1, 1), np.int64)
                reaches[axis] = Reach(dim, Fraction(1), shape[dim], zeros)
            if axis in (Y, X) and isinstance(given, int):
                self.reasons.append(
                    f"cannot be proved: the {AXES[axis]} of input {value.name!r} is fixed at {given}"
                )
        self.pixels = shape[0] * shape[2] * shape[3]
        return Trace(tuple(shape), reaches)

    def _step(self, node: Node) -> None:
        missing = [name for name in node.inputs if name and name not in self.traces]
        twice = [name for name in node.outputs if name in self.traces]
        inputs = [self.traces.get(name) if name else None for name in node.inputs]
        unknown = any(name and trace is None for name, trace in zip(node.inputs, inputs, strict=True))
        made: list[Trace] = []
        call = Call(node, inputs, self.file.opsets.get(node.domain, 1))
        if missing or twice:
            self._blame(node, f"reads or writes {(missing or twice)[0]!r} out of order")
        elif unknown:
            if call.name in ALWAYS_GLOBAL:
                call.remarks.append("looks at the whole image")
        elif any(isinstance(value, Graph) for value in node.attributes.values()):
            self._blame(node, "runs another graph")
        elif (node.domain, node.op_type) in self.file.functions:
            self._blame(node, "is a function of the model's own")
        else:
            try:
                made = follow(call)
            except Unproved as why:
                self._blame(node, str(why))
        self.flops += call.flops
        self.smallest = max([self.smallest, *(call.smallest.get(axis, 1) for axis in (Y, X))])
        self.reasons += [f"{_called(node)} {remark}" for remark in call.remarks]
        self.traces |= dict.fromkeys(node.outputs) | dict(zip(node.outputs, made, strict=False))

    def _blame(self, node: Node, why: str) -> None:
        self.reasons.append(f"cannot be proved: {_called(node)} {why}")

    def _judge(self, image: Trace) -> dict[int, list[Reach]]:
        """Compare the output's places with the input's, and give what the figures are to be read from."""
        name = self.file.graph.outputs[0].name
        output = self.traces.get(name)
        if output is None:
            if not self.reasons:
                self.reasons.append(f"cannot be proved: nothing computes output {name!r}")
        elif len(output.shape) != 4 or any(output.shape[dim] != image.shape[dim] for dim in (0, 2, 3)):
            self.reasons.append(
                f"cannot be proved: output {name!r} has shape {list(output.shape)} for {list(image.shape)}"
            )
        elif any(not _lies_on(output.reaches.get(axis), reach) for axis, reach in image.reaches.items()):
            self.reasons.append(f"cannot be proved: places of output {name!r} are not those of the image")
        else:
            if BATCH in output.reaches and (output.reaches[BATCH].ends < 0).any():
                self.reasons.append(f"cannot be proved: images of one batch mix in output {name!r}")
            return {axis: [output.reaches[axis]] if axis in output.reaches else [] for axis in (Y, X)}
        seen = [trace for trace in self.traces.values() if trace]
        return {axis: [t.reaches[axis] for t in seen if _starts_and_ends_with(t, axis)] for axis in (Y, X)}

    def course(self) -> list[tuple[int, int, Fraction, Fraction, bytes]]:
        """Give what must not depend on the image's size: of every tensor its grid, its margins and its reach."""
        return [
            (
                axis,
                reach.dim,
                reach.step,
                trace.shape[reach.dim] * reach.step - reach.image,
                reach.ends.tobytes(),
            )
            for trace in self.traces.values()
            if trace
            for axis, reach in trace.reaches.items()
        ]

    def peak_elements(self) -> int:
        """Count the elements that are alive at once, at most."""
        last_use = {name: at for at, node in enumerate(self.nodes) for name in node.inputs}
        last_use |= {value.name: len(self.nodes) for value in self.file.graph.outputs}
        sizes = {name: prod(trace.shape) for name, trace in self.traces.items() if trace and trace.of_image}
        written = {name for node in self.nodes for name in node.outputs}
        alive = peak = sum(size for name, size in sizes.items() if name not in written)
        for at, node in enumerate(self.nodes):
            made = sum(sizes.get(name, 0) for name in node.outputs)
            dying = [sizes.get(name, 0) for name in dict.fromkeys(node.inputs) if last_use[name] == at]
            in_place = node.op_type in IN_PLACE and made in dying
            peak = max(peak, alive if in_place else alive + made)
            alive += made - sum(dying)
        return peak


def _needed(graph: Graph) -> list[Node]:
    """Give the operations that the first output depends on, in the graph's order."""
    wanted = {value.name for value in graph.outputs[:1]}
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            nodes.append(node)
    return nodes[::-1]


def _called(node: Node) -> str:
    return f"{node.op_type} {(node.name or next(iter(node.outputs), ''))!r}"


def _lies_on(reach: Reach | None, image: Reach) -> bool:
    return reach is not None and (reach.dim, reach.step) == (image.dim, image.step)


def _starts_and_ends_with(trace: Trace, axis: int) -> bool:
    """Say whether a tensor covers just the image, so that its elements' places are known."""
    reach = trace.reaches.get(axis)
    return reach is not None and trace.shape[reach.dim] * reach.step == reach.image


def _beyond(reaches: list[Reach]) -> tuple[int, int]:
    """Give how far the elements of one period look before its first and behind its last pixel."""
    before = max((-int(reach.ends[0].min()) for reach in reaches), default=0)
    behind = max((-int(reach.ends[1].min()) - reach.period_px + 1 for reach in reaches), default=0)
    return max(before, 0), max(behind, 0)
