"""Results into OME-Zarr 0.5: an array of shards, written block by block in any order, and the metadata last.

The folder is an image only once it is finished. A shard is written by one transaction, synchronised to the disk and
renamed into place by tensorstore, so it is there whole or not at all; blank ones are written too, for what is not there
is not done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import product
from math import ceil, prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, OutputError
from isbi_infer.files import make_folder, replacing
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.protocol import Block, StackInfo
from isbi_infer.volumes.spread import Spread, in_turn
from isbi_infer.volumes.zarr.location import Location, reason_of, tensorstore
from isbi_infer.volumes.zarr.pyramid import halve, pyramid_steps

Shape = tuple[int, int, int]

_AXES = ("z", "y", "x")


class OmeZarrSink:
    """A result on its way into an OME-Zarr image; a `isbi_infer.volumes.protocol.Sink` of blocks in any order.

    Parameters
    ----------
    folder : Path
        Where the image is made; what is there of an earlier run of the same plan is kept.
    shape : (int, int, int)
        (Z, Y, X), in pixels.
    dtype : dtype-like
        "uint8", "uint32" or "float32".
    shard, chunk : (int, int, int)
        In pixels; blocks are whole shards.
    like : StackInfo
        Of the input: pixel size and place are carried over.
    name : str
        Of the image.
    attributes : mapping
        Put beside OME's own, such as how the result was made.
    pyramid : bool
        Whether smaller resolutions are added.
    existing : bool
        Whether the image is there already and only read.
    labels : bool
        Whether pixels are ids, which viewers show in colours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shape: Shape,
        dtype: npt.DTypeLike,
        shard: Shape,
        chunk: Shape,
        like: StackInfo,
        name: str = "probability",
        attributes: Mapping[str, Any] | None = None,
        pyramid: bool = False,
        existing: bool = False,
        labels: bool = False,
    ) -> None:
        self._existing, self._labels = existing, labels
        self._made_elsewhere = False
        self._folder, self._like, self._name = folder, like, name
        self._shape, self._dtype, self._shard, self._chunk = shape, np.dtype(dtype), shard, chunk
        self._attributes = dict(attributes or {})
        self._steps = pyramid_steps(shape, like.pixel_size, chunk[1:]) if pyramid else ()

    def __getstate__(self) -> dict[str, Any]:
        """Be entered again in another process, to write blocks or halve levels.

        There nothing is made that is missing, for a folder that is not seen is another one; attributes stay with who
        finishes.
        """
        held = {name: value for name, value in self.__dict__.items() if name != "_array"}
        return held | {"_attributes": {}, "_made_elsewhere": True}

    @property
    def levels(self) -> int:
        """How many resolutions it has when it is finished."""
        return 1 + len(self._steps)

    def __enter__(self) -> Self:
        if not (self._existing or self._made_elsewhere):
            make_folder(self._folder)
        self._array = self._level(0, self._shape)
        return self

    def done(self, block: Block) -> bool:
        """Return whether all shards of a block are there and can be opened, as the storage has it."""
        return all(self._readable(place) for place in self._shards(block))

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        """Store one block, its shards whole and at once."""
        if values_ZYX.shape != block.shape or values_ZYX.dtype != self._dtype:
            raise ValueError(f"{values_ZYX.dtype} {values_ZYX.shape}; expected {self._dtype} {block.shape}")
        for place in self._shards(block):
            self._readable_or_gone(place)
        self._store(self._array, (slice(*block.z), slice(*block.y), slice(*block.x)), values_ZYX)

    def read(self, block: Block) -> npt.NDArray[Any]:
        """Return a block that is done."""
        try:
            values: npt.NDArray[Any] = (
                self._array[slice(*block.z), slice(*block.y), slice(*block.x)].read(order="C").result()
            )
        except Exception as error:
            raise OutputError(
                f"{self._folder}: block {block.index} cannot be read ({reason_of(error)})"
            ) from error
        return values

    def finish(self, spread: Spread = in_turn) -> tuple[str, ...]:
        """Add the smaller resolutions and the metadata, after all blocks.

        Parameters
        ----------
        spread : Spread, optional
            Where the shards of the smaller resolutions are made.
        """
        for number, step in enumerate(self._steps, start=1):
            self._level(number, step.shape)  # made once, before workers open it
            for _ in spread(partial(self.halve, number), prod(self._grid(step.shape))):
                pass
        document = {"zarr_format": 3, "node_type": "group", "attributes": self._group_attributes()}
        with replacing(self._folder / "zarr.json") as temporary:
            temporary.write_bytes(json.dumps(document, indent=1, sort_keys=True).encode())
        return ()

    def halve(self, number: int, index: int) -> None:
        """Make a shard of a smaller level of the level above it; one that is there already is left as it is.

        Parameters
        ----------
        number : int
            Of the level, from 1; the one above it is complete.
        index : int
            Of the shard, along X first and along Z last.
        """
        step = self._steps[number - 1]
        shape = self._shape if number == 1 else self._steps[number - 2].shape
        larger, smaller = self._level(number - 1, shape), self._level(number, step.shape)
        z, y, x = (int(at) for at in np.unravel_index(index, self._grid(step.shape)))
        if self._readable_or_gone((z, y, x), number, smaller):
            return
        shard = _cut(self._shard, self._chunk, step.shape)
        part = tuple(
            slice(at * side, min((at + 1) * side, size))
            for at, side, size in zip((z, y, x), shard, step.shape, strict=True)
        )
        values_ZYX = np.empty([span.stop - span.start for span in part], self._dtype)
        # One by one, for the sections above a shard would be eight of them.
        for section in range(part[0].start, part[0].stop):
            source = tuple(
                slice(own.start * factor, min(own.stop * factor, size))
                for own, factor, size in zip(
                    (slice(section, section + 1), *part[1:]), step.factors, shape, strict=True
                )
            )
            try:
                above_ZYX = larger[source].read(order="C").result()
            except Exception as error:
                raise OutputError(f"{self._folder}: cannot be read back ({reason_of(error)})") from error
            values_ZYX[section - part[0].start] = halve(above_ZYX, step.factors)[0]
        self._store(smaller, part, values_ZYX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._array

    def _level(self, number: int, shape: Shape) -> Any:
        """Open the array of a level, and make it where it is not there."""
        location = Location.of(self._folder).inner(str(number))
        shard = _cut(self._shard, self._chunk, shape)
        spec = {
            "driver": "zarr3",
            "kvstore": location.spec(),
            "store_data_equal_to_fill_value": True,
            "fill_missing_data_reads": False,
            "metadata": {
                "shape": shape,
                "data_type": self._dtype.name,
                "fill_value": 0,
                "dimension_names": list(_AXES),
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "codecs": [_sharding(self._chunk, self._dtype)],
            },
        }
        try:
            options = {"read": True} if self._existing else {"open": True, "create": not self._made_elsewhere}
            return tensorstore().open(spec, context=location.context(), **options).result()
        except Exception as error:
            if self._existing:
                raise ImageError(
                    f"{self._folder}: level {number} is not what its plan says ({reason_of(error)})"
                ) from error
            raise OutputError(f"{self._folder}: cannot be written ({reason_of(error)}); {_REMEDY}") from error

    def _store(self, array: Any, where: tuple[slice, ...], values_ZYX: npt.NDArray[Any]) -> None:
        try:
            transaction = tensorstore().Transaction()  # without one a shard might be written in several goes
            array.with_transaction(transaction)[where].write(values_ZYX).result()
            transaction.commit_async().result()
        except Exception as error:  # a full disk is a ValueError to tensorstore
            raise OutputError(f"{self._folder}: cannot be written ({reason_of(error)}); {_REMEDY}") from error

    def _shards(self, block: Block) -> Iterator[Shape]:
        spans = zip((block.z, block.y, block.x), self._shard, strict=True)
        z, y, x = (range(start // side, ceil(stop / side)) for (start, stop), side in spans)
        yield from product(z, y, x)

    def _grid(self, shape: Shape) -> Shape:
        """Return the shards of a level along each axis."""
        shard = _cut(self._shard, self._chunk, shape)
        z, y, x = (ceil(size / side) for size, side in zip(shape, shard, strict=True))
        return z, y, x

    def _file(self, place: Shape, number: int = 0) -> Path:
        return self._folder.joinpath(str(number), "c", *map(str, place))

    def _readable(self, place: Shape, number: int = 0, array: Any = None) -> bool:
        if not self._file(place, number).is_file():
            return False
        array = self._array if array is None else array
        shard = self._shard if number == 0 else _cut(self._shard, self._chunk, array.shape)
        try:  # reading one pixel checks the index of the shard, which stands at its end
            array[tuple(at * side for at, side in zip(place, shard, strict=True))].read().result()
        except Exception:
            return False
        return True

    def _readable_or_gone(self, place: Shape, number: int = 0, array: Any = None) -> bool:
        """Return whether a shard can be opened; remove one that cannot.

        A torn one that reaches beyond the volume could not be replaced. A whole one may be another run's, which
        counts it as done, so it stays until the same bytes take its place.
        """
        if self._readable(place, number, array):
            return True
        with suppress(FileNotFoundError):
            self._file(place, number).unlink()
        return False

    def _group_attributes(self) -> dict[str, Any]:
        size, origin = self._like.pixel_size, self._like.origin_nm or (0.0, 0.0, 0.0)
        scale = _scale_nm(size)
        axes: list[dict[str, str]] = [{"name": axis, "type": "space"} for axis in _AXES]
        for axis, known in zip(
            axes,
            (size is not None and size.z_nm is not None, size is not None, size is not None),
            strict=True,
        ):
            if known:
                axis["unit"] = "nanometer"
        levels = []
        total = (1, 1, 1)
        for number, factors in enumerate(((1, 1, 1), *(step.factors for step in self._steps))):
            total = (total[0] * factors[0], total[1] * factors[1], total[2] * factors[2])
            transforms: list[dict[str, Any]] = [
                {"type": "scale", "scale": [side * n for side, n in zip(scale, total, strict=True)]}
            ]
            # The centre of a pixel of several lies between theirs.
            start = [o + side * (n - 1) / 2 for o, side, n in zip(origin, scale, total, strict=True)]
            if any(start):
                transforms.append({"type": "translation", "translation": start})
            levels.append({"path": str(number), "coordinateTransformations": transforms})
        image: dict[str, Any] = {"name": self._name, "axes": axes, "datasets": levels}
        if self._steps:
            image |= {"type": "mean", "metadata": {"description": "means of 2 pixels along each halved axis"}}
        ome: dict[str, Any] = {"version": "0.5", "multiscales": [image]}
        if self._labels:
            ome["image-label"] = {}
        return {"ome": ome, **self._attributes}


_REMEDY = "free some space, or choose a folder that you may write to"


def _scale_nm(size: PixelSize | None) -> tuple[float, float, float]:
    return (1.0, 1.0, 1.0) if size is None else (size.z_nm or 1.0, size.y_nm, size.x_nm)


def _cut(shard: Shape, chunk: Shape, shape: Shape) -> Shape:
    """Return a shard no longer than a smaller level needs."""
    sides = [min(side, ceil(size / c) * c) for side, c, size in zip(shard, chunk, shape, strict=True)]
    return sides[0], sides[1], sides[2]


def _sharding(chunk: Shape, dtype: np.dtype[Any]) -> dict[str, Any]:
    little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if dtype.itemsize == 1:
        codecs: list[dict[str, Any]] = [
            {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        ]
    else:  # the bytes of floats of one exponent are alike
        blosc = {
            "cname": "zstd",
            "clevel": 1,
            "shuffle": "shuffle",
            "typesize": dtype.itemsize,
            "blocksize": 0,
        }
        codecs = [little, {"name": "blosc", "configuration": blosc}]
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": chunk,
            "codecs": codecs,
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
