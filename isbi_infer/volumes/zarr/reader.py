"""Greyscale sections out of chunked volumes, a section or a window of it at a time."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from functools import partial
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, IsbiError, ResourceError
from isbi_infer.volumes.finite import check_finite
from isbi_infer.volumes.protocol import Section, StackInfo, Window
from isbi_infer.volumes.zarr.location import Location, is_address, reason_of, tensorstore, unnamable
from isbi_infer.volumes.zarr.metadata import (
    Image,
    axes_of,
    contradict,
    n5_image,
    names_any,
    ome_image,
    plain_image,
    precomputed_image,
)

_MARKS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_MOST_CACHE = 2**30  # bytes
_WINDOWS_CACHE = 2**28  # bytes, where a slab of sections is too large
_LARGE_CHUNK = 2**30  # bytes, decoded
_LARGER = 64  # times the array: no writer's default is larger
_FLAT_CACHE = 2**22, 2**24  # bytes at least and at most, where a section shares no chunk with another
_KINDS = {"t": "time points", "c": "channels"}
_OPTIONS = {"t": "--time", "c": "--channel"}
_LISTED = 8
_SAMPLES = 16  # windows that a fingerprint reads
_SAMPLE = 64  # px
_STEPS = (0.8191725134, 0.6710436067, 0.5497004779)  # the three of the R3 sequence


def is_volume(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an address, or a folder of Zarr, N5 or a precomputed volume."""
    if is_address(path):
        return True
    folder = Path(path)
    if not os.path.isdir(folder):
        return False
    if any(os.path.isfile(folder / mark) for mark in _MARKS):
        return True
    return bool(_local_json(folder / "info").get("scales")) or bool(
        {"n5", "dimensions"} & _local_json(folder / "attributes.json").keys()
    )


def _local_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes()) if os.path.isfile(path) else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def open_volume(
    path: str | os.PathLike[str],
    *,
    channel: int | None = None,
    time: int | None = None,
    level: str | int | None = None,
    strict: bool = False,
) -> ZarrSource:
    """Open an OME-Zarr image (0.4 or 0.5), a plain Zarr array, an N5 dataset or a precomputed volume.

    Parameters
    ----------
    path : path
        A folder, or an address that begins with ``http://``, ``https://``, ``s3://`` or ``gs://``.
    channel, time : int, optional
        Which one is read of several, from 0.
    level : str or int, optional
        Name or number of a resolution, an int always its number; the largest when not given.
    strict : bool
        Take a missing chunk for an error, and not for the fill value.

    Returns
    -------
    ZarrSource
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    ImageError
        If it is no greyscale volume that can be read; the message says what was found.
    DependencyError
        If tensorstore is not installed.
    """
    tensorstore()
    location = Location.of(path)
    if reason := unnamable(location.url):
        raise ImageError(f"{location.name}: {reason}; rename it")
    try:
        image, stamp = _describe(location)
        index = 0 if level is None else image.index_of(level)
        return ZarrSource(
            location,
            image,
            index,
            channel=channel,
            time=time,
            strict=strict,
            chosen=level is not None,
            stamp=stamp,
        )
    except (ImageError, ResourceError) as error:
        raise type(error)(f"{location.name}: {error}") from error


def _describe(location: Location) -> tuple[Image, str]:
    """Return what a volume's metadata says, and a text that changes with it."""
    context = location.context()

    def read(key: str, place: Location = location) -> dict[str, Any] | None:
        document, generation = place.read_json(key, context)
        generations.append(generation)
        return document

    generations: list[str] = []
    if (zarr_3 := read("zarr.json")) is not None:
        if zarr_3.get("zarr_format") != 3:
            raise ImageError(f"is of Zarr format {zarr_3.get('zarr_format')!r}; expected 2 or 3")
        attributes = zarr_3.get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        if zarr_3.get("node_type") == "array":
            names = zarr_3.get("dimension_names")
            if not names_any(names):
                names = attributes.get("_ARRAY_DIMENSIONS")
            image = plain_image("zarr3", "Zarr 3", names)
        else:
            image = ome_image(attributes, "zarr3")
    elif (zarr_2 := read(".zarray")) is not None:
        if zarr_2.get("zarr_format") != 2:
            raise ImageError(f"is of Zarr format {zarr_2.get('zarr_format')!r}; expected 2 or 3")
        image = plain_image("zarr", "Zarr 2", (read(".zattrs") or {}).get("_ARRAY_DIMENSIONS"))
    elif (attributes_2 := read(".zattrs")) is not None or read(".zgroup") is not None:
        image = ome_image(attributes_2 or {}, "zarr")
    elif (n5 := read("attributes.json")) is not None:
        children: dict[str, dict[str, Any]] = {}
        if "dimensions" not in n5:
            while (child := read("attributes.json", location.inner(f"s{len(children)}"))) is not None:
                children[f"s{len(children)}"] = child
        image = n5_image(n5, children)
    elif (info := read("info")) is not None:
        image = precomputed_image(info)
    else:
        raise ImageError(
            "holds no zarr.json, .zattrs, .zarray, attributes.json or info; expected OME-Zarr, Zarr, N5 or a "
            "precomputed volume; check the path"
        )
    return image, " ".join(filter(None, generations))


class ZarrSource:
    """An open chunked volume, read a section or a window at a time; made by `open_volume`.

    It is a `isbi_infer.volumes.protocol.Source`.

    Attributes
    ----------
    name : str
        The path or address as the user wrote it.
    info : StackInfo
        Shape, axes and pixel size of the level that is read.
    dtype : numpy.dtype
        Of the sections.
    nodata : None
        Chunked volumes do not name such a value.
    notes : tuple of str
        What axes were taken for granted, and which level is read, where there are several.
    image : Image
        All levels.
    """

    nodata: float | None = None

    def __init__(
        self,
        location: Location,
        image: Image,
        index: int,
        *,
        channel: int | None,
        time: int | None,
        strict: bool,
        chosen: bool,
        stamp: str,
    ) -> None:
        self.name, self.image = location.name, image
        self._location, self._index, self._chosen, self._strict = location, index, chosen, strict
        self._selection = {"c": channel, "t": time}
        self._stamp = stamp
        self._guard = threading.Lock()
        self._missing: dict[int, str] = {}
        level = image.levels[index]
        spec: dict[str, Any] = {"driver": image.driver, "fill_missing_data_reads": False}
        if level.scale_index is None:
            spec["kvstore"] = location.inner(level.path).spec()
        else:
            spec |= {"kvstore": location.spec(), "scale_index": level.scale_index}
        array = _opened(spec, location.context(), level.path)
        self.dtype = np.dtype(array.dtype.numpy_dtype)
        if self.dtype.kind not in "biuf":
            raise ImageError(f"holds {array.dtype.name} values; expected greyscale integers or floats")
        _check_chunks(array)
        axes = image.axes or axes_of(tuple(array.shape))
        if len(axes) != array.rank:
            raise ImageError(f"has {array.rank} dimensions and axes for {len(axes)}; export it again")
        kept = self._kept_axes(axes, tuple(array.shape))
        names = "".join(axis for axis in "zyx" if axis in kept)
        shape = tuple(array.shape[axes.index(axis)] for axis in names)
        # A slab of chunks, so that the sections of a chunk do not decode it one after the other.
        chunk = [side or 1 for side in array.chunk_layout.read_chunk.shape]
        depth = chunk[axes.index("z")] if "z" in kept else 1
        slab = prod(shape[-2:]) * depth * self.dtype.itemsize * 2
        self.line = max(shape[-2] * chunk[axes.index("x")], shape[-1] * chunk[axes.index("y")])
        if depth == 1:
            least, most = _FLAT_CACHE
            slab = min(slab, max(least, min(most, self.line * self.dtype.itemsize)))
        elif slab > _MOST_CACHE:  # whole sections would gain nothing from it
            slab = _WINDOWS_CACHE
        context = location.context(slab)
        self._strict_ZYX = self._view(_opened(spec, context, level.path), axes, names)
        self._filled_ZYX = self._view(
            _opened(spec | {"fill_missing_data_reads": True}, context, level.path), axes, names
        )
        self.info = StackInfo(
            shape=shape, axes=names.upper(), pixel_size=level.pixel_size, origin_nm=level.origin_nm
        )
        self.notes: tuple[str, ...] = image.notes
        if image.driver == "zarr3" and contradict(array.domain.labels, axes):
            named = ", ".join(name or "nothing" for name in array.domain.labels)
            own = ", ".join(axes)
            self.notes += (
                f"level {level.path} names its axes {named}, the image {own}: the image's are taken",
            )
        if len(image.levels) > 1:
            size = f" of {level.pixel_size}" if level.pixel_size else ""
            self.notes += (f"level {level.path}{size} is read, one of {len(image.levels)}; --level selects",)

    def _kept_axes(self, axes: str, shape: tuple[int, ...]) -> str:
        """Return the axes of the sections; ImageError where others need a choice that was not made."""
        kept = ""
        for axis, size in zip(axes, shape, strict=True):
            if size < 1:
                raise ImageError(f"has axes {axes} of sizes {shape}; expected pixels")
            if axis in "zyx":
                kept += axis
                continue
            wanted = self._selection.get(axis)
            kind = _KINDS.get(axis, f"places along {axis}")
            if axis not in _KINDS and size > 1:
                raise ImageError(f"has axes {axes} of sizes {shape}; expected t, c, z, y and x")
            if wanted is None and size > 1:
                raise ImageError(
                    f"holds {size} {kind}, axes {axes} of sizes {shape}; choose one with {_OPTIONS[axis]}"
                )
            if wanted is not None and not 0 <= wanted < size:
                raise ImageError(f"has no {_OPTIONS[axis]} {wanted}; it holds {size} {kind}, counted from 0")
        if not {"y", "x"} <= set(kept):
            raise ImageError(f"has axes {axes}; expected at least y and x")
        for axis, wanted in self._selection.items():
            if wanted is not None and axis not in axes:
                raise ImageError(f"has no {_KINDS[axis]}, axes {axes}; leave {_OPTIONS[axis]} out")
        return kept

    def _view(self, array: Any, axes: str, names: str) -> Any:
        array = array[tensorstore().d[:].translate_to[0]]
        index = tuple(slice(None) if axis in names else self._selection.get(axis) or 0 for axis in axes)
        rest = "".join(axis for axis in axes if axis in names)
        return array[index].transpose([rest.index(axis) for axis in names])

    def nearest(self, size_nm: float) -> ZarrSource:
        """Return the source of the level whose pixels are nearest to a size; this one where a level was chosen."""
        index = self.image.nearest(size_nm)
        if self._chosen or index == self._index:
            return self
        try:
            return ZarrSource(
                self._location,
                self.image,
                index,
                channel=self._selection["c"],
                time=self._selection["t"],
                strict=self._strict,
                chosen=False,
                stamp=self._stamp,
            )
        except (ImageError, ResourceError) as error:
            raise type(error)(f"{self.name}: {error}") from error

    def read(self, z: int, window: Window | None = None) -> Section:
        """Read a section or a window of it; safe to call from several threads."""
        if not 0 <= z < self.info.sections:
            raise IndexError(f"section {z} of {self.info.sections}")
        section_YX = self._decode(z, window)
        try:
            check_finite(section_YX, None)
        except ImageError as error:
            raise ImageError(f"{self.name}: section {z}: {error}") from error
        return section_YX

    def _decode(self, z: int, window: Window | None) -> Section:
        where: tuple[Any, ...] = (z,) if len(self.info.shape) == 3 else ()
        where += window or (slice(None), slice(None))
        try:
            return self._read(self._strict_ZYX[where])
        except MemoryError as error:
            size = prod(self.info.shape[-2:]) * self.dtype.itemsize / 2**30
            raise ResourceError(f"{self.name}: no memory for a section of {size:.1f} GiB") from error
        except Exception as error:
            reason = reason_of(error)
            if "NOT_FOUND" not in reason or self._strict:
                remedy = (
                    "copy or export it again" if "NOT_FOUND" not in reason else "leave --strict out to go on"
                )
                raise ImageError(f"{self.name}: section {z} cannot be read ({reason}); {remedy}") from error
        with self._guard:
            self._missing.setdefault(z, reason)
        try:
            return self._read(self._filled_ZYX[where])
        except Exception as error:
            raise ImageError(f"{self.name}: section {z} cannot be read ({reason_of(error)})") from error

    def _read(self, view: Any) -> Section:
        section: npt.NDArray[Any] = view.read(order="C").result()
        return section

    def found(self) -> tuple[str, ...]:
        """Return what turned up while sections were read: missing chunks."""
        with self._guard:
            sections = sorted(self._missing)
        if not sections:
            return ()
        named = ", ".join(map(str, sections[:_LISTED])) + (" and more" if len(sections) > _LISTED else "")
        count = f"section {named}" if len(sections) == 1 else f"{len(sections)} sections ({named})"
        return (f"chunks are missing in {count}: read as the fill value; --strict makes it an error",)

    def fingerprint(self) -> str:
        """Return digests of all metadata with their times of change and of sampled pixels, and what was selected.

        Sixteen windows of 64 x 64 pixels, spread over the volume, stand for all pixels: another export of it is seen, a
        change in a few places elsewhere is not.
        """
        level = self.image.levels[self._index]
        said = f"{self._stamp} {level} {self._filled_ZYX.shape} {self.dtype}"
        chosen = "".join(f", {_KINDS[a]} {n}" for a, n in self._selection.items() if n is not None)
        metadata, pixels = hashlib.sha256(said.encode()), self._sampled()
        digests = f"metadata {metadata.hexdigest()[:32]}, pixels {pixels}"
        return f"{digests}, level {level.path or '.'}{chosen}"

    def _sampled(self) -> str:
        """Return a digest of some pixels; what cannot be read is an error only once it is needed."""
        digest = hashlib.sha256()
        shape = (self.info.sections, *self.info.shape[-2:])
        for number in range(_SAMPLES):
            # Multiples of irrational steps: spread along each axis, and along no line.
            at = [int((0.5 + number * step) % 1.0 * size) for step, size in zip(_STEPS, shape, strict=True)]
            starts = [
                max(0, min(start, size - _SAMPLE)) for start, size in zip(at[1:], shape[1:], strict=True)
            ]
            y, x = (
                slice(start, min(start + _SAMPLE, size))
                for start, size in zip(starts, shape[1:], strict=True)
            )
            where = (at[0], y, x) if len(self.info.shape) == 3 else (y, x)
            try:
                digest.update(np.ascontiguousarray(self._read(self._filled_ZYX[where])).tobytes())
            except Exception:  # a damaged chunk
                digest.update(b"unreadable")
        return digest.hexdigest()[:32]

    def close(self) -> None:
        """Release the volume; what describes it stays."""
        self._strict_ZYX = self._filled_ZYX = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Be opened again in another process."""
        channel, time = self._selection["c"], self._selection["t"]
        reopen = partial(open_volume, level=self._index, channel=channel, time=time, strict=self._strict)
        place = self.name if is_address(self.name) else os.path.abspath(self.name)
        return reopen, (place,)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_chunks(array: Any) -> None:
    """Raise an error for chunks that no memory holds, since tensorstore ends the process when it decodes one."""
    chunk = tuple(side or 1 for side in array.chunk_layout.read_chunk.shape)
    size = prod(chunk) * array.dtype.numpy_dtype.itemsize
    if size > _LARGE_CHUNK and prod(chunk) > _LARGER * prod(array.shape):
        raise ImageError(f"declares chunks of {chunk} pixels in an array of {array.shape}; export it again")
    try:
        np.empty(size, np.uint8)
    except (MemoryError, ValueError) as error:
        raise ResourceError(
            f"no memory for a chunk of {size / 2**30:.1f} GiB; export it in smaller chunks"
        ) from error


def _opened(spec: dict[str, Any], context: Any, path: str) -> Any:
    try:
        return tensorstore().open(spec, read=True, context=context).result()
    except IsbiError:
        raise
    except Exception as error:  # unknown codecs, damaged metadata, missing arrays
        where = f"level {path}" if path else "the array"
        raise ImageError(f"{where} cannot be opened ({reason_of(error)}); export it again") from error
