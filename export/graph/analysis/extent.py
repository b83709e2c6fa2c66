"""Which pixels the elements of a tensor depend on: exact arithmetic on an image without end.

Along one axis of the image, a tensor's element ``i`` lies at pixel ``i * step`` and depends on the pixels ``lo[i]`` to
``hi[i]``. A network is the same everywhere but for its phase, so a period of elements tells all::

    pixel      0   1   2   3   4   5   6   7
    image      0   1   2   3   4   5   6   7      step 1, period 1
    3x3 conv  -1+1 0+2 1+3 ...                    step 1, period 1
    pool 2    -1+2    1+4     3+6     ...         step 2, period 1, which are 2 pixels
    upsample  -1+2-1+2 1+4 1+4 3+6 ...            step 1, period 2, which are 2 pixels

Reading an element beyond a tile's edge yields padding where the whole image has a value, so an element also
depends on whatever makes its sources lie within the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm, prod

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

_NOTHING = 1 << 40  # the first pixel of what depends on none
_LARGEST = 1 << 20  # elements of any array here
_LONGEST_PERIOD_PX = 4096
_SIGNS = np.array([[[1]], [[-1]]], dtype=np.int64)


class Unproved(Exception):  # noqa: N818  it is no error, but an answer
    """An operation whose locality cannot be proved; its message is the reason."""


@dataclass(frozen=True, slots=True)
class Extent:
    """One tensor along one axis of the image.

    Attributes
    ----------
    dim : int
        Of the tensor's dimensions the one that runs along this axis.
    step : Fraction
        Pixels from one element to the next.
    image : int
        Length of the axis in pixels.
    ends : ndarray of int64, shape (2, ...)
        First pixel, and last pixel times -1, so that a union is a minimum. Further dimensions are the tensor's: one
        period along `dim`, elsewhere its size, or 1 where nothing varies.
    """

    dim: int
    step: Fraction
    image: int
    ends: IntArray

    @property
    def period(self) -> int:
        """Elements after which everything repeats."""
        return int(self.ends.shape[self.dim + 1])

    @property
    def period_px(self) -> int:
        """Pixels after which everything repeats."""
        return int(self.period * self.step)

    def read(
        self, index: IntArray, size: int, step: Fraction, valid: npt.NDArray[np.bool_] | None = None
    ) -> Extent:
        """Let every new element read old ones.

        Parameters
        ----------
        index : ndarray of int64, shape (elements, taps)
            What the elements of a new period read; beyond the tensor's ends lies padding.
        size : int
            Elements of the old tensor.
        step : Fraction
            Pixels from one new element to the next.
        valid : ndarray of bool, same shape, optional
            False for taps that do not exist.

        Returns
        -------
        Extent
        """
        if index.size * self.ends.size // self.period > _LARGEST:
            raise Unproved("reads too many elements at once")
        turn, place = np.divmod(index, self.period)
        ends = np.take(self.ends, place, axis=self.dim + 1)
        per_tap = (2, *(1,) * self.dim, *index.shape, *(1,) * (ends.ndim - self.dim - 3))
        ends += (_SIGNS * (turn * self.period_px)).reshape(per_tap)
        pixels, elements = self.step.numerator, self.step.denominator
        within = np.stack(
            [-(-pixels * (index + 1) // elements) - 1, -(pixels * (index - size) // elements + self.image)]
        )
        np.minimum(ends, within.reshape(per_tap), out=ends)
        if valid is not None:
            ends = np.where(valid.reshape(per_tap[1:]), ends, _NOTHING)
        new = replace(self, step=step, ends=ends.min(axis=self.dim + 2))
        return new.checked()

    def window(self, size: int, kernel: int, stride: int, dilation: int, pad: int) -> Extent:
        """Let element ``i`` read the elements from ``i * stride - pad`` on, `kernel` of them `dilation` apart."""
        count = lcm(self.period, stride) // stride
        index = np.arange(count)[:, None] * stride + np.arange(kernel) * dilation - pad
        return self.read(index, size, self.step * stride)

    def spread(self, size: int, kernel: int, stride: int, dilation: int, pad: int) -> Extent:
        """Let element ``i`` be written to ``i * stride - pad`` and on, `kernel` elements `dilation` apart."""
        target = np.arange(self.period * stride)[:, None] + pad - np.arange(kernel) * dilation
        return self.read(target // stride, size, self.step / stride, target % stride == 0)

    def repeated(self, period: int) -> Extent:
        """Write several periods out; `period` is a multiple of the period there is."""
        if period == self.period:
            return self
        shift = np.array([self.period_px, -self.period_px]).reshape(2, *(1,) * (self.ends.ndim - 1))
        if self.ends.size * (period // self.period) > _LARGEST:
            raise Unproved("repeats after too many pixels")
        copies = [self.ends + turn * shift for turn in range(period // self.period)]
        return replace(self, ends=np.concatenate(copies, axis=self.dim + 1)).checked()

    def checked(self) -> Extent:
        """Return itself, unless its period is no stride that a tile could have."""
        if self.period_px > _LONGEST_PERIOD_PX:
            raise Unproved(f"repeats after more than {_LONGEST_PERIOD_PX} pixels only")
        return self

    def mixed(self, dims: Sequence[int]) -> Extent:
        """Let every element depend on all along some other dimensions."""
        along = tuple(dim + 1 for dim in dims if dim != self.dim and self.ends.shape[dim + 1] > 1)
        return replace(self, ends=self.ends.min(axis=along, keepdims=True)) if along else self

    def picked(self, dim: int, which: IntArray | slice) -> Extent:
        """Take some elements along another dimension."""
        if self.ends.shape[dim + 1] == 1:
            return self
        return replace(self, ends=self.ends[(slice(None),) * (dim + 1) + (which,)])

    def lifted(self, rank: int) -> Extent:
        """Put dimensions of size 1 in front, as broadcasting does."""
        more = rank - (self.ends.ndim - 1)
        if not more:
            return self
        ends = self.ends.reshape(2, *(1,) * more, *self.ends.shape[1:])
        return replace(self, dim=self.dim + more, ends=ends)

    def transposed(self, order: Sequence[int]) -> Extent:
        """Reorder the dimensions; new dimension ``i`` is the old ``order[i]``."""
        ends = self.ends.transpose(0, *(dim + 1 for dim in order))
        return replace(self, dim=list(order).index(self.dim), ends=ends)

    def regrouped(self, pieces: Sequence[Sequence[int]], groups: Sequence[Sequence[int]]) -> Extent:
        """Split dimensions into pieces and merge the pieces into other dimensions, as a Reshape does.

        Parameters
        ----------
        pieces : sequence of sequence of int
            Sizes that each old dimension is split into; none for a dimension of size 1.
        groups : sequence of sequence of int
            Numbers of the pieces that each new dimension is made of.
        """
        if not pieces[self.dim]:
            raise Unproved("reshapes an axis of one element")
        inner = prod(pieces[self.dim][1:])
        whole = self.repeated(lcm(self.period, inner))
        axis = sum(len(sizes) for sizes in pieces[: self.dim])
        split = [2]
        for dim, sizes in enumerate(pieces):
            if dim == self.dim:
                split += [whole.period // inner, *sizes[1:]]
            else:
                split += sizes if whole.ends.shape[dim + 1] > 1 else [1] * len(sizes)
        full = [size for sizes in pieces for size in sizes]
        full[axis] = split[axis + 1]
        shape, merged, dim = [2], [2], 0
        step = self.step * inner
        for new, group in enumerate(groups):
            varies = any(split[piece + 1] > 1 for piece in group)
            if axis in group:
                if group[0] != axis:
                    raise Unproved("interleaves the image with another dimension")
                dim, varies = new, True
                step /= prod(full[piece] for piece in group[1:])
            sizes = [full[piece] if varies else 1 for piece in group]
            shape += sizes
            merged.append(prod(sizes))
        if prod(shape) > _LARGEST:
            raise Unproved("merges too many elements")
        ends = np.broadcast_to(whole.ends.reshape(split), shape).reshape(merged)
        return Extent(dim, step, self.image, ends)


def aligned(extents: Sequence[Extent]) -> list[Extent]:
    """Return extents of one rank the same period, or raise `Unproved` where they do not lie on each other."""
    if len({(extent.dim, extent.step) for extent in extents}) > 1:
        steps = " and ".join(str(float(extent.step)) for extent in extents)
        raise Unproved(f"joins tensors that do not lie on each other (pixels per element: {steps})")
    period = lcm(*(extent.period for extent in extents))
    return [extent.repeated(period) for extent in extents]


def union(extents: Sequence[Extent]) -> Extent:
    """Let every element depend on what any of the extents depends on."""
    first, *others = aligned(extents)
    ends = first.ends
    for other in others:
        if other.ends is not ends:
            ends = np.minimum(ends, other.ends)
    return replace(first, ends=ends)


def stacked(extents: Sequence[Extent | None], sizes: Sequence[int], dim: int) -> Extent:
    """Concatenate along another dimension; None is what depends on no pixel."""
    known = iter(aligned([extent for extent in extents if extent]))
    parts = [next(known) if extent else None for extent in extents]
    first = next(part for part in parts if part)
    if dim == first.dim:
        raise Unproved("joins images side by side")
    shape = np.broadcast_shapes(*(_without(part.ends, dim) for part in parts if part))
    blocks = []
    for part, size in zip(parts, sizes, strict=True):
        block_shape = (*shape[: dim + 1], size, *shape[dim + 2 :])
        if prod(block_shape) > _LARGEST:
            raise Unproved("joins too many elements")
        blocks.append(np.broadcast_to(part.ends if part else np.int64(_NOTHING), block_shape))
    return replace(first, ends=np.concatenate(blocks, axis=dim + 1))


def _without(ends: IntArray, dim: int) -> tuple[int, ...]:
    return (*ends.shape[: dim + 1], 1, *ends.shape[dim + 2 :])
