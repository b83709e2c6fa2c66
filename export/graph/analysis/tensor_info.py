"""What is known of a tensor while a graph is followed on paper, and what an operation is told when its turn comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from math import prod
from typing import Any

import onnx

from isbi_export.graph.analysis.extent import Extent, IntArray, Unproved, stacked, union
from isbi_export.graph.analysis.reading import Array, attributes_of, domain_of


class Flattened(Unproved):
    """Two axes of the image in one dimension."""


BATCH, Y, X = 0, 1, 2
AXES = {BATCH: "batch", Y: "Y axis", X: "X axis"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor for one size of image.

    Attributes
    ----------
    shape : tuple of int
    extents : mapping of int to Extent
        By axis of the image (`BATCH`, `Y`, `X`); an axis that the tensor does not run along is missing.
    fixed : bool
        Whether it consists of the model's own numbers, which may be others from place to place.
    value : ndarray or None
        Its numbers, where they are few and do not depend on pixels.
    flattened : TensorInfo or None
        What it was before a Reshape took the image's places from it; some operations are written between two such.
    """

    shape: tuple[int, ...]
    extents: Mapping[int, Extent] = field(default_factory=dict)
    fixed: bool = False
    value: Array | None = None
    flattened: TensorInfo | None = None

    @property
    def of_image(self) -> bool:
        """Whether it varies with the image."""
        return bool(self.extents or self.flattened)

    def axis_at(self, dim: int) -> int | None:
        """Return the axis of the image that a dimension runs along, if any."""
        return next((axis for axis, extent in self.extents.items() if extent.dim == dim), None)

    def with_extents(self, shape: Sequence[int], extents: Mapping[int, Extent]) -> TensorInfo:
        """Return what is computed from this tensor alone."""
        return TensorInfo(tuple(shape), extents, fixed=self.fixed)

    def mixed(self, dims: Sequence[int]) -> TensorInfo:
        """Let every element depend on all along some dimensions that are no axes of the image."""
        return replace(self, extents={axis: extent.mixed(dims) for axis, extent in self.extents.items()})

    def resized(self, dim: int, size: int) -> TensorInfo:
        """Return it another size along a dimension that is no axis of the image, every element depending on all."""
        shape = (*self.shape[:dim], size, *self.shape[dim + 1 :])
        return self.mixed([dim]).with_extents(shape, self.mixed([dim]).extents)

    def picked(self, dim: int, which: IntArray | slice, size: int) -> TensorInfo:
        """Take some elements along a dimension that is no axis of the image."""
        if self.axis_at(dim) is not None:
            raise Unproved("picks places of the image")
        extents = {axis: extent.picked(dim, which) for axis, extent in self.extents.items()}
        return self.with_extents((*self.shape[:dim], size, *self.shape[dim + 1 :]), extents)

    def transposed(self, order: Sequence[int]) -> TensorInfo:
        """Reorder the dimensions."""
        if sorted(order) != list(range(len(self.shape))):
            raise Unproved(f"orders {len(self.shape)} dimensions as {list(order)}")
        extents = {axis: extent.transposed(order) for axis, extent in self.extents.items()}
        return self.with_extents([self.shape[dim] for dim in order], extents)

    def reshaped(self, shape: Sequence[int]) -> TensorInfo:
        """Return it another shape of as many elements, or raise `Unproved` where that mixes up axes of the image."""
        if prod(self.shape) != prod(shape) or not prod(shape):
            raise Unproved(f"reshapes {list(self.shape)} to {list(shape)}")
        cuts = sorted({*_cuts(self.shape), *_cuts(shape)})
        if any(after % before for before, after in pairwise(cuts)):
            raise Unproved("reshapes across dimensions")
        sizes = [after // before for before, after in pairwise(cuts)]
        at = {cut: number for number, cut in enumerate(cuts)}
        old, new = ([range(at[a], at[b]) for a, b in _spans(dims)] for dims in (self.shape, shape))
        leading = [next(iter(old[extent.dim]), None) for extent in self.extents.values()]
        if any(sum(piece in leading for piece in group) > 1 for group in new):
            raise Flattened("flattens the image")
        pieces = [[sizes[number] for number in group] for group in old]
        return self.with_extents(
            shape, {axis: extent.regrouped(pieces, new) for axis, extent in self.extents.items()}
        )


def _cuts(shape: Sequence[int]) -> list[int]:
    """Return the products of the first 0, 1, 2 ... sizes."""
    return [prod(shape[:count]) for count in range(len(shape) + 1)]


def _spans(shape: Sequence[int]) -> Iterable[tuple[int, int]]:
    cuts = _cuts(shape)
    return pairwise(cuts)


def broadcast(tensors: Sequence[TensorInfo]) -> TensorInfo:
    """Combine tensors element by element."""
    shape = broadcast_shape([tensor.shape for tensor in tensors])
    extents: dict[int, list[Extent]] = {}
    for tensor in tensors:
        for axis, extent in tensor.extents.items():
            lifted = extent.lifted(len(shape))
            if tensor.shape[extent.dim] != shape[lifted.dim]:
                raise Unproved(f"spreads one element over the {AXES[axis]}")
            extents.setdefault(axis, []).append(lifted)
    combined = {axis: union(several) for axis, several in extents.items()}
    refuse_fixed_over_image(tensors, combined, shape)
    return TensorInfo(shape, combined, fixed=all(tensor.fixed for tensor in tensors))


def concatenated(tensors: Sequence[TensorInfo], dim: int) -> TensorInfo:
    """Join tensors along a dimension."""
    extents: dict[int, Extent] = {}
    sizes = [tensor.shape[dim] for tensor in tensors]
    for axis in sorted({axis for tensor in tensors for axis in tensor.extents}):
        extents[axis] = stacked([tensor.extents.get(axis) for tensor in tensors], sizes, dim)
    shape = (*tensors[0].shape[:dim], sum(sizes), *tensors[0].shape[dim + 1 :])
    others = {(*tensor.shape[:dim], *tensor.shape[dim + 1 :]) for tensor in tensors}
    if len(others) > 1:
        raise Unproved(f"joins shapes {' and '.join(str(list(tensor.shape)) for tensor in tensors)}")
    refuse_fixed_over_image(tensors, extents, shape)
    return TensorInfo(shape, extents, fixed=all(tensor.fixed for tensor in tensors))


def refuse_fixed_over_image(
    tensors: Sequence[TensorInfo], extents: Mapping[int, Extent], shape: Sequence[int]
) -> None:
    """Raise `Unproved` if numbers of the model's own are others at other places of the image."""
    for tensor in tensors:
        for axis, extent in extents.items():
            dim = extent.dim - len(shape) + len(tensor.shape)
            if tensor.fixed and dim >= 0 and tensor.shape[dim] > 1:
                raise Unproved(f"uses fixed numbers that vary along the {AXES[axis]}")


def broadcast_shape(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the shape that shapes have together; NumPy's own function stops at 2**63 elements."""
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
    node : onnx.NodeProto
        The operation as it stands in the graph.
    inputs : list of TensorInfo or None
        None for optional inputs that are not given.
    opset : int
        Version of the operation's domain.
    remarks : list of str
        Why the result is not local, as far as found.
    flops : int
        Floating-point operations of convolutions.
    smallest : dict of int to int
        By axis of the image: the fewest pixels that the operation works on at all, where it needs more than one.
    attributes : dict of str to object
        Those of `node`.
    """

    node: onnx.NodeProto
    inputs: list[TensorInfo | None]
    opset: int
    remarks: list[str] = field(default_factory=list)
    flops: int = 0
    smallest: dict[int, int] = field(default_factory=dict)
    attributes: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.attributes = attributes_of(self.node)

    @property
    def name(self) -> str:
        """The operation's name, after its domain unless that is the standard one."""
        domain = domain_of(self.node)
        return f"{domain}.{self.node.op_type}" if domain else str(self.node.op_type)

    def required(self, number: int) -> TensorInfo:
        """Return an input that must be there."""
        tensor = self.optional(number)
        if tensor is None:
            raise Unproved(f"lacks input {number}")
        return tensor

    def optional(self, number: int) -> TensorInfo | None:
        """Return an input that need not be there."""
        return self.inputs[number] if number < len(self.inputs) else None

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute of the default's type; a tuple's elements are integers."""
        value = self.attributes.get(name, default)
        if not isinstance(value, type(default)) or (
            isinstance(value, tuple) and not all(isinstance(number, int) for number in value)
        ):
            raise Unproved(f"has {name}={value!r}")
        return value

    def sizes(self, name: str, count: int, default: int) -> tuple[int, ...]:
        """Return an attribute of so many integers, all of them at least `default`."""
        value: tuple[int, ...] = self.attribute(name, (default,) * count) or (default,) * count
        if len(value) != count or min(value, default=default) < default:
            raise Unproved(f"has {name}={list(value)}")
        return value

    def integers(self, number: int) -> tuple[int, ...] | None:
        """Return the numbers of an input of integers; None if it is not given or empty."""
        tensor = self.optional(number)
        if tensor is None or not prod(tensor.shape):
            return None
        if tensor.value is None:
            raise Unproved("is steered by numbers that cannot be computed beforehand")
        return tuple(int(value) for value in tensor.value.reshape(-1).tolist())

    def axis(self, rank: int, default: int | None = None) -> int:
        """Return the attribute ``axis`` counted from the front."""
        axis = self.attribute("axis", 0 if default is None else default)
        return self.dim(axis, rank)

    def dim(self, dim: int, rank: int) -> int:
        """Count a dimension from the front."""
        if not -rank <= dim < rank:
            raise Unproved(f"has no dimension {dim}")
        return dim % rank

    def looks_at(self, tensor: TensorInfo, dims: Iterable[int], what: str) -> None:
        """Remark on an operation over all of some dimensions, if an axis of the image is among them."""
        axes = [axis for axis in map(tensor.axis_at, dims) if axis is not None]
        if tensor.flattened or {Y, X} <= set(axes):
            self.remarks.append(what.format("the whole image"))
        elif axes:
            self.remarks.append(what.format("the whole " + AXES[axes[0]]))
