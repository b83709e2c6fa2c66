"""Layers of napari as sections to read, and results as layers that lie on them.

Nothing here needs a viewer: a layer is whatever has ``data``, ``scale``, ``units`` and so on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError
from isbi_infer.volumes.finite import check_finite
from isbi_infer.volumes.pixel_size import PixelSize, in_nm
from isbi_infer.volumes.protocol import Section, Source, StackInfo, Window

RESULT = "isbi-infer"  # in the metadata of layers that this plugin made

_COPIED = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


def check_greyscale(layer: Any) -> None:
    """Raise ImageError, naming the layer, unless it is a greyscale section or stack."""
    kind = type(layer).__name__
    if kind != "Image":
        raise ImageError(f"layer {layer.name!r} is a layer of {kind.lower()}; expected an image")
    if layer.rgb:
        raise ImageError(
            f"layer {layer.name!r} is in colour (RGB); expected greyscale: split its channels (right click, "
            "Split RGB) and choose one"
        )
    if layer.ndim not in (2, 3):
        raise ImageError(
            f"layer {layer.name!r} has {layer.ndim} dimensions, {tuple(pixels_of(layer).shape)}; expected a section "
            "(Y, X) or a stack (Z, Y, X): split it (right click, Split Stack) and choose a part"
        )
    if np.dtype(pixels_of(layer).dtype).kind not in "iuf":
        raise ImageError(
            f"layer {layer.name!r} holds {pixels_of(layer).dtype} pixels; expected integers or floats"
        )


def pixels_of(layer: Any) -> Any:
    """Return the array of a layer; of several resolutions the largest."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def is_lazy(layer: Any) -> bool:
    """Return whether the pixels of a layer are read when they are asked for (dask, zarr), and not held in memory."""
    return not isinstance(pixels_of(layer), np.ndarray)


def pixel_size_of(layer: Any) -> PixelSize | None:
    """Return the pixel size that a layer's scale and units say; None where the units are pixels."""
    sizes = [in_nm(abs(float(size)), str(unit)) for size, unit in zip(layer.scale, layer.units, strict=True)]
    if sizes[-2] is None or sizes[-1] is None:
        return None
    return PixelSize(y_nm=sizes[-2], x_nm=sizes[-1], z_nm=sizes[0] if len(sizes) == 3 else None)


def placed_like(layer: Any, name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a new layer that lies on another: its scale, units, axis labels and place.

    Parameters
    ----------
    layer : Layer
        The one below.
    name : str
        What is appended to its name.
    found : dict
        How the new one was made, for its metadata.
    """
    options = {key: getattr(layer, key) for key in _COPIED if hasattr(layer, key)}
    return {**options, "name": f"{layer.name} {name}", "metadata": {RESULT: {**found, "of": layer.name}}}


class LayerSource:
    """Sections of a layer, read one by one; a `isbi_infer.volumes.protocol.Source`.

    Parameters
    ----------
    layer : Layer
        A greyscale image.
    pixel_size : PixelSize or None
        Of its pixels.

    Raises
    ------
    ImageError
        If it is no greyscale section or stack.
    """

    nodata: float | None = None
    notes: tuple[str, ...] = ()
    line: int | None = 1

    def __init__(self, layer: Any, pixel_size: PixelSize | None) -> None:
        check_greyscale(layer)
        self.name = str(layer.name)
        self._pixels = pixels_of(layer)
        self.info = StackInfo(shape=tuple(self._pixels.shape), pixel_size=pixel_size)
        self.dtype = np.dtype(self._pixels.dtype).newbyteorder("=")

    def read(self, z: int, window: Window | None = None) -> Section:
        """Read a section or a window of it."""
        where: tuple[Any, ...] = window if window is not None else (slice(None), slice(None))
        if len(self._pixels.shape) == 3:
            where = (z, *where)
        try:
            section_YX = np.array(self._pixels[where], self.dtype)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ImageError(f"layer {self.name!r}: section {z} cannot be read ({reason})") from error
        try:
            check_finite(section_YX, None)
        except ImageError as error:
            raise ImageError(f"layer {self.name!r}: section {z}: {error}") from error
        return section_YX

    def found(self) -> tuple[str, ...]:
        """Return nothing: what is read is what there is."""
        return ()

    def fingerprint(self) -> str:
        """Return nothing, as for arrays."""
        return ""

    def close(self) -> None:
        """Leave the layer as it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None


@dataclass(slots=True, eq=False)
class SourceArray:
    """An open source as an array for a layer, read as it is shown.

    Attributes
    ----------
    source : Source
        Stays open as long as the layer is shown.
    """

    source: Source

    @property
    def shape(self) -> tuple[int, ...]:
        """(Y, X) or (Z, Y, X), in pixels."""
        return self.source.info.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return self.source.dtype

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many pixels."""
        return int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        return _indexed(key, self.shape, self.source.read)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[...], dtype)


class ShownSections:
    """Sections of a result as an array that is computed where it is looked at.

    A section that is not there yet is NaN, which napari draws clear, and is asked for.

    Parameters
    ----------
    shape : tuple of int
        (Y, X) or (Z, Y, X).
    ask : callable
        Called, in any thread, with the number of a section that is looked at and not there.
    most : int
        Bytes of sections that are kept; those put first go first.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], ask: Callable[[int], None], most: int = 2**30) -> None:
        self.shape = shape
        self._ask = ask
        self._kept = max(1, most // (4 * shape[-2] * shape[-1]))
        self._guard = threading.Lock()
        self._sections: dict[int, npt.NDArray[np.float32]] = {}

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many pixels."""
        return int(np.prod(self.shape))

    @property
    def there(self) -> tuple[int, ...]:
        """Numbers of the sections that are there."""
        with self._guard:
            return tuple(sorted(self._sections))

    def put(self, z: int, section_YX: npt.NDArray[np.float32]) -> None:
        """Keep a section."""
        with self._guard:
            self._sections[z] = section_YX
            while len(self._sections) > self._kept:
                del self._sections[next(iter(self._sections))]

    def section(self, z: int) -> npt.NDArray[np.float32] | None:
        """Return a section; None where it is not there."""
        with self._guard:
            return self._sections.get(z)

    def _read(self, z: int) -> npt.NDArray[np.float32]:
        found_YX = self.section(z)
        if found_YX is None:
            self._ask(z)
            return np.full(self.shape[-2:], np.nan, np.float32)
        return found_YX

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        return _indexed(key, self.shape, self._read)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        total = self.shape[0] if self.ndim == 3 else 1
        if len(self.there) < total:
            raise ImageError(
                f"{len(self.there)} of {total} sections are computed, those that were looked at; choose all sections, "
                "or run isbi-infer on the file, for a whole result"
            )
        return np.asarray(self[...], dtype)


class OutlinesOf:
    """Outlines of shown sections, as an array of 0 and 1; see `ShownSections`.

    Parameters
    ----------
    sections : ShownSections
        Probabilities.
    threshold : float
        Outlines are drawn where they cross it.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, sections: ShownSections, threshold: float) -> None:
        self.shape, self.ndim, self.size = sections.shape, sections.ndim, sections.size
        self._sections, self._threshold = sections, threshold

    def _read(self, z: int) -> npt.NDArray[np.uint8]:
        found_YX = self._sections.section(z)
        if found_YX is None:  # the probabilities ask for it
            return np.zeros(self.shape[-2:], np.uint8)
        return outlined(found_YX, self._threshold)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        return _indexed(key, self.shape, self._read)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[...], dtype)


def outlined(probability_YX: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.uint8]:
    """Return 1 where the probability crosses a threshold, and 0 elsewhere."""
    from isbi_infer.report.pictures import outlines

    return outlines(probability_YX, threshold).astype(np.uint8)


def _indexed(key: Any, shape: tuple[int, ...], read: Callable[[int], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Index a stack of which whole sections are read."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in [part for part in parts if part is Ellipsis]:
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    parts += [slice(None)] * (len(shape) - len(parts))
    found: npt.NDArray[Any]
    if len(shape) == 2:
        found = read(0)[tuple(parts)]
        return found
    first, *rest = parts
    if isinstance(first, slice):
        chosen = range(shape[0])[first]
    elif np.ndim(first) > 0:
        chosen = [int(z) for z in np.asarray(first)]  # type: ignore[assignment]
    else:
        found = read(range(shape[0])[int(first)])[tuple(rest)]
        return found
    sections = [read(z)[tuple(rest)] for z in chosen]
    return np.stack(sections) if sections else np.empty((0, *read(0)[tuple(rest)].shape))
