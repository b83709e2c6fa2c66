"""How a volume of results is stored and computed: chunks within shards, shards within blocks.

::

    chunk   what is compressed as one and read as one
    shard   one file: chunks and their index
    block   whole shards, computed and stored as one; its number is its identity

A shard is written once, whole, by the block that it belongs to, so blocks may be computed in any order, by any process,
and twice. Shards that reach beyond the volume are cut by its end.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, prod
from typing import overload

from isbi_infer.errors import UsageError
from isbi_infer.plan.tiles import SectionPlan
from isbi_infer.volumes.protocol import Block

Shape = tuple[int, int, int]

_CHUNK = 256  # px; a chunk is of one section, so that a section is read without its neighbours
_SHARD = 1024  # px
_DEEPEST = 32  # sections
_BLOCK_BYTES = 256 * 2**20  # of results, held until their block is complete


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The blocks of a volume, numbered along X first and along Z last.

    Attributes
    ----------
    shape : (int, int, int)
        (Z, Y, X) of the volume, in pixels.
    block : (int, int, int)
        Of a block; the last ones along an axis are cut by the volume's end.
    shard : (int, int, int)
        Of a shard; it divides `block`.
    chunk : (int, int, int)
        Of a chunk; it divides `shard`.
    """

    shape: Shape
    block: Shape
    shard: Shape
    chunk: Shape

    def __post_init__(self) -> None:
        for name, outer, inner in (("block", self.block, self.shard), ("shard", self.shard, self.chunk)):
            if min(inner) < 1 or any(a % b for a, b in zip(outer, inner, strict=True)):
                raise UsageError(f"a {name} of {outer} pixels (z, y, x) is not a multiple of {inner}")

    @property
    def grid(self) -> Shape:
        """Blocks along Z, Y and X."""
        z, y, x = (ceil(size / side) for size, side in zip(self.shape, self.block, strict=True))
        return z, y, x

    @property
    def count(self) -> int:
        """Number of blocks."""
        return prod(self.grid)

    @property
    def whole_sections(self) -> bool:
        """Whether each block holds whole sections."""
        return self.grid[1:] == (1, 1)

    def at(self, index: int) -> Block:
        """Return a block by its number."""
        if not 0 <= index < self.count:
            raise IndexError(f"block {index} of {self.count}")
        rest, x = divmod(index, self.grid[2])
        z, y = divmod(rest, self.grid[1])
        spans = [
            (place * side, min((place + 1) * side, size))
            for place, side, size in zip((z, y, x), self.block, self.shape, strict=True)
        ]
        return Block(index, spans[0], spans[1], spans[2])

    def blocks(self, share: tuple[int, int] = (1, 1)) -> Iterator[Block]:
        """Return blocks in order.

        Parameters
        ----------
        share : (int, int)
            (i, n): every n-th block, beginning with the i-th; i counts from 1. No share is empty where there are as
            many blocks.
        """
        first, step = share
        return (self.at(index) for index in range(first - 1, self.count, step))

    def share_size(self, share: tuple[int, int]) -> int:
        """Return how many blocks a share has, see `blocks`."""
        return len(range(share[0] - 1, self.count, share[1]))

    def numbered(self, indices: Iterable[int]) -> Blocks:
        """Return blocks by their numbers, without making them before they are asked for."""
        return Blocks(self, array("q", indices))

    def halo_share(self, section: SectionPlan) -> float:
        """Return the tiles computed for all blocks of a section, per tile of a section computed as a whole."""
        inner = [a / b for a, b in zip(section.shape, self.shape[1:], strict=True)]
        computed = 0
        for index in range(self.grid[1] * self.grid[2]):
            block = self.at(index)
            y, x = (
                slice(floor(start * scale), ceil(stop * scale))
                for (start, stop), scale in zip((block.y, block.x), inner, strict=True)
            )
            computed += len(section.touching((y, x)))
        return computed / len(section.tiles)


class Blocks(Sequence[Block]):
    """Blocks of a layout, eight bytes each however many there are.

    Parameters
    ----------
    layout : Layout
        What they are blocks of.
    indices : array of int
        Their numbers.
    """

    def __init__(self, layout: Layout, indices: array[int]) -> None:
        self._layout, self._indices = layout, indices

    @property
    def indices(self) -> array[int]:
        """Their numbers."""
        return self._indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> Block: ...

    @overload
    def __getitem__(self, place: slice) -> Blocks: ...

    def __getitem__(self, place: int | slice) -> Block | Blocks:
        if isinstance(place, slice):
            return Blocks(self._layout, self._indices[place])
        return self._layout.at(self._indices[place])


def choose_layout(
    shape: Shape, itemsize: int, *, memory: int, working_bytes: float, block: Shape | None = None
) -> Layout:
    """Choose blocks of whole sections where these fit into memory, as deep as keeps files few.

    Parameters
    ----------
    shape : (int, int, int)
        (Z, Y, X) of the volume, in pixels.
    itemsize : int
        Bytes of a pixel of the result.
    memory : int
        Bytes that sections in work may take.
    working_bytes : float
        Bytes that a section in work takes per pixel.
    block : (int, int, int), optional
        What the user asks for: pixels along (Z, Y, X), multiples of a chunk or all of the axis.

    Returns
    -------
    Layout

    Raises
    ------
    UsageError
        If `block` is no multiple of a chunk.
    """
    depth, height, width = shape
    if block is not None:
        chunk = (1, min(_CHUNK, height), min(_CHUNK, width))
        wanted = [
            ceil(size / c) * c if side >= size else side
            for side, size, c in zip(block, shape, chunk, strict=True)
        ]
        if min(wanted) < 1 or any(side % c for side, c in zip(wanted, chunk, strict=True)):
            raise UsageError(
                f"a block of {block} pixels (z, y, x) is not a multiple of {_CHUNK} along y and x; "
                f"try {tuple(max(c, round(side / c) * c) for side, c in zip(block, chunk, strict=True))}"
            )
        sides = (wanted[0], wanted[1], wanted[2])
        shard = (sides[0], _shard(sides[1], chunk[1]), _shard(sides[2], chunk[2]))
        return Layout(shape=shape, block=sides, shard=shard, chunk=chunk)
    chunk = (1, min(_CHUNK, height), min(_CHUNK, width))
    sides_yx = [min(_SHARD, ceil(size / c) * c) for size, c in zip(shape[1:], chunk[1:], strict=True)]
    if height * width * working_bytes <= memory:
        across = [ceil(size / side) * side for size, side in zip(shape[1:], sides_yx, strict=True)]
    else:
        across = list(sides_yx)
        while True:  # larger blocks compute fewer tiles twice
            larger = [
                min(2 * a, ceil(size / s) * s) for a, size, s in zip(across, shape[1:], sides_yx, strict=True)
            ]
            if larger == across or prod(larger) * max(working_bytes, 8.0 * itemsize) > min(
                memory, _BLOCK_BYTES
            ):
                break
            across = larger
    deep = 1
    while deep < min(_DEEPEST, depth) and 2 * deep * prod(across) * itemsize <= _BLOCK_BYTES:
        deep *= 2
    return Layout(
        shape=shape,
        block=(deep, across[0], across[1]),
        shard=(deep, sides_yx[0], sides_yx[1]),
        chunk=chunk,
    )


def _shard(side: int, chunk: int) -> int:
    """Return the longest side of a shard, a multiple of a chunk, that divides a block's."""
    return max((s for s in range(chunk, min(side, _SHARD) + 1, chunk) if side % s == 0), default=chunk)
