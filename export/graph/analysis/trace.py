"""What is known of a tensor while a graph is followed on paper, and what an operation is told when its turn comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from math import prod
from typing import Any

from isbi_export.graph.analysis.onnxfile import Array, Node
from isbi_export.graph.analysis.reach import IntArray, Reach, Unproved, stacked, union


class Flattened(Unproved):
    """Two axes of the image in one dimension."""


BATCH, Y, X = 0, 1, 2
AXES = {BATCH: "batch", Y: "Y axis", X: "X axis"}


@dataclass(frozen=True, slots=True)
class Trace:
    """A tensor for one size of image.

    Attributes
    ----------
    shape : tuple of int
    reaches : mapping of int to Reach
        By axis of the image (`BATCH`, `Y`, `X`); an axis that the tensor does not run along is missing.
    fixed : bool
        Whether it consists of the model's own numbers, which may be others from place to place.
    value : ndarray or None
        Its numbers, where they are few and do not depend on pixels.
    flattened : Trace or None
        What it was before a Reshape took the image's places from it; some operations are written between two such.
    """

    shape: tuple[int, ...]
    reaches: Mapping[int, Reach] = field(default_factory=dict)
    fixed: bool = False
    value: Array | None = None
    flattened: Trace | None = None

    @property
    def of_image(self) -> bool:
        """Whether it varies with the image."""
        return bool(self.reaches or self.flattened)

    def axis_at(self, dim: int) -> int | None:
        """Give the axis of the image that a dimension runs along, if any."""
        return next((axis for axis, reach in self.reaches.items() if reach.dim == dim), None)

    def with_reaches(self, shape: Sequence[int], reaches: Mapping[int, Reach]) -> Trace:
        """Give what is computed from this tensor alone."""
        return Trace(tuple(shape), reaches, fixed=self.fixed)

    def mixed(self, dims: Sequence[int]) -> Trace:
        """Let every element depend on all along some dimensions that are no axes of the image."""
        return replace(self, reaches={axis: reach.mixed(dims) for axis, reach in self.reaches.items()})

    def resized(self, dim: int, size: int) -> Trace:
        """Give it another size along a dimension that is no axis of the image, every element depending on all."""
        shape = (*self.shape[:dim], size, *self.shape[dim + 1 :])
        return self.mixed([dim]).with_reaches(shape, self.mixed([dim]).reaches)

    def picked(self, dim: int, which: IntArray | slice, size: int) -> Trace:
        """Take some elements along a dimension that is no axis of the image."""
        if self.axis_at(dim) is not None:
            raise Unproved("picks places of the image")
        reaches = {axis: reach.picked(dim, which) for axis, reach in self.reaches.items()}
        return self.with_reaches((*self.shape[:dim], size, *self.shape[dim + 1 :]), reaches)

    def transposed(self, order: Sequence[int]) -> Trace:
        """Reorder the dimensions."""
        if sorted(order) != list(range(len(self.shape))):
            raise Unproved(f"orders {len(self.shape)} dimensions as {list(order)}")
        reaches = {axis: reach.transposed(order) for axis, reach in self.reaches.items()}
        return self.with_reaches([self.shape[dim] for dim in order], reaches)

    def reshaped(self, shape: Sequence[int]) -> Trace:
        """Give it another shape of as many elements, or raise `Unproved` where that mixes up axes of the image."""
        if prod(self.shape) != prod(shape) or not prod(shape):
            raise Unproved(f"reshapes {list(self.shape)} to {list(shape)}")
        cuts = sorted({*_cuts(self.shape), *_cuts(shape)})
        if any(after % before for before, after in pairwise(cuts)):
            raise Unproved("reshapes across dimensions")
        sizes = [after // before for before, after in pairwise(cuts)]
        at = {cut: number for number, cut in enumerate(cuts)}
        old, new = ([range(at[a], at[b]) for a, b in _spans(dims)] for dims in (self.shape, shape))
        leading = [next(iter(old[reach.dim]), None) for reach in self.reaches.values()]
        if any(sum(piece in leading for piece in group) > 1 for group in new):
            raise Flattened("flattens the image")
        pieces = [[sizes[number] for number in group] for group in old]
        return self.with_reaches(
            shape, {axis: reach.regrouped(pieces, new) for axis, reach in self.reaches.items()}
        )


def _cuts(shape: Sequence[int]) -> list[int]:
    """Give the products of the first 0, 1, 2 ... sizes."""
    return [prod(shape[:count]) for count in range(len(shape) + 1)]


def _spans(shape: Sequence[int]) -> Iterable[tuple[int, int]]:
    cuts = _cuts(shape)
    return pairwise(cuts)


def broadcast(traces: Sequence[Trace]) -> Trace:
    """Combine tensors element by element."""
    shape = broadcast_shape([trace.shape for trace in traces])
    reaches: dict[int, list[Reach]] = {}
    for trace in traces:
        for axis, reach in trace.reaches.items():
            lifted = reach.lifted(len(shape))
            if trace.shape[reach.dim] != shape[lifted.dim]:
                raise Unproved(f"spreads one element over the {AXES[axis]}")
            reaches.setdefault(axis, []).append(lifted)
    combined = {axis: union(several) for axis, several in reaches.items()}
    refuse_fixed_over_image(traces, combined, shape)
    return Trace(shape, combined, fixed=all(trace.fixed for trace in traces))


def concatenated(traces: Sequence[Trace], dim: int) -> Trace:
    """Join tensors along a dimension."""
    reaches: dict[int, Reach] = {}
    sizes = [trace.shape[dim] for trace in traces]
    for axis in sorted({axis for trace in traces for axis in trace.reaches}):
        reaches[axis] = stacked([trace.reaches.get(axis) for trace in traces], sizes, dim)
    shape = (*traces[0].shape[:dim], sum(sizes), *traces[0].shape[dim + 1 :])
    others = {(*trace.shape[:dim], *trace.shape[dim + 1 :]) for trace in traces}
    if len(others) > 1:
        raise Unproved(f"joins shapes {' and '.join(str(list(trace.shape)) for trace in traces)}")
    refuse_fixed_over_image(traces, reaches, shape)
    return Trace(shape, reaches, fixed=all(trace.fixed for trace in traces))


def refuse_fixed_over_image(
    traces: Sequence[Trace], reaches: Mapping[int, Reach], shape: Sequence[int]
) -> None:
    """Raise `Unproved` if numbers of the model's own are others at other places of the image."""
    for trace in traces:
        for axis, reach in reaches.items():
            dim = reach.dim - len(shape) + len(trace.shape)
            if trace.fixed and dim >= 0 and trace.shape[dim] > 1:
                raise Unproved(f"uses fixed numbers that vary along the {AXES[axis]}")


def broadcast_shape(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Give the shape that shapes have together; NumPy's own function stops at 2**63 elements."""
    sizes = []
    for column in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        several = {size for size in column if size != 1} or {1}
        if len(several) > 1:
            raise Unproved(f"joins shapes {' and '.join(str(list(shape)) for shape in shapes)}")
        sizes.append(several.pop())
    return tuple(reversed(sizes))


@dataclass(slots=True)
class Call:
    """One operation about to be followed.

    Attributes
    ----------
    node : Node
    inputs : list of Trace or None
        None for optional inputs that are not given.
    opset : int
        Version of the operation's domain.
    remarks : list of str
        Why the result is not local, as far as found.
    flops : int
        Floating-point operations of convolutions.
    smallest : dict of int to int
        By axis of the image: the fewest pixels that the operation works on at all, where it needs more than one.
    """

    node: Node
    inputs: list[Trace | None]
    opset: int
    remarks: list[str] = field(default_factory=list)
    flops: int = 0
    smallest: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The operation's name, after its domain unless that is the standard one."""
        return f"{self.node.domain}.{self.node.op_type}" if self.node.domain else self.node.op_type

    def given(self, number: int) -> Trace:
        """Give an input that must be there."""
        trace = self.optional(number)
        if trace is None:
            raise Unproved(f"lacks input {number}")
        return trace

    def optional(self, number: int) -> Trace | None:
        """Give an input that need not be there."""
        return self.inputs[number] if number < len(self.inputs) else None

    def attribute(self, name: str, default: Any) -> Any:
        """Give an attribute of the default's type; a tuple's elements are integers."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, type(default)) or (
            isinstance(value, tuple) and not all(isinstance(number, int) for number in value)
        ):
            raise Unproved(f"has {name}={value!r}")
        return value

    def sizes(self, name: str, count: int, default: int) -> tuple[int, ...]:
        """Give an attribute of so many integers, all of them at least `default`."""
        value: tuple[int, ...] = self.attribute(name, (default,) * count) or (default,) * count
        if len(value) != count or min(value, default=default) < default:
            raise Unproved(f"has {name}={list(value)}")
        return value

    def integers(self, number: int) -> tuple[int, ...] | None:
        """Give the numbers of an input of integers; None if it is not given or empty."""
        trace = self.optional(number)
        if trace is None or not prod(trace.shape):
            return None
        if trace.value is None:
            raise Unproved("is steered by numbers that cannot be computed beforehand")
        return tuple(int(value) for value in trace.value.reshape(-1).tolist())

    def axis(self, rank: int, default: int | None = None) -> int:
        """Give the attribute ``axis`` counted from the front."""
        axis = self.attribute("axis", 0 if default is None else default)
        return self.dim(axis, rank)

    def dim(self, dim: int, rank: int) -> int:
        """Count a dimension from the front."""
        if not -rank <= dim < rank:
            raise Unproved(f"has no dimension {dim}")
        return dim % rank

    def looks_at(self, trace: Trace, dims: Iterable[int], what: str) -> None:
        """Remark on an operation over all of some dimensions, if an axis of the image is among them."""
        axes = [axis for axis in map(trace.axis_at, dims) if axis is not None]
        if trace.flattened or {Y, X} <= set(axes):
            self.remarks.append(what.format("the whole image"))
        elif axes:
            self.remarks.append(what.format("the whole " + AXES[axes[0]]))
