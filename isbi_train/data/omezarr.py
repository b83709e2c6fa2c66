"""Stacks out of OME-Zarr folders, for training: one greyscale volume, read whole (NGFF 0.4 and 0.5).

What is read: https://ngff.openmicroscopy.org/0.5/#multiscale-md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, ResourceError
from isbi_infer.terminal import require_packages
from isbi_infer.volumes.pixel_size import PixelSize, in_nm

_MARKS = ("zarr.json", ".zgroup", ".zarray")


def is_zarr(path: Path) -> bool:
    """Return whether a path is a folder of Zarr, format 2 or 3."""
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def read_omezarr(path: Path) -> tuple[npt.NDArray[Any], PixelSize | None]:
    """Read the largest resolution of an OME-Zarr image, or of a plain Zarr array.

    Parameters
    ----------
    path : Path
        The folder of the image; labels within it have a folder of their own, such as ``image.zarr/labels/cells``.

    Returns
    -------
    volume_ZYX : ndarray, shape (Z, Y, X)
        As stored, in the machine's byte order.
    pixel_size : PixelSize or None
        None where the metadata does not say.

    Raises
    ------
    ImageError
        If there is no such volume, or it has several channels or times, or holds NaN.
    DependencyError
        If zarr is not installed.
    ResourceError
        If there is no memory for it.
    """
    require_packages("zarr", "zarr")
    import zarr

    try:
        found = zarr.open(path, mode="r")
        if isinstance(found, zarr.Array):
            array, size = found, None
            axes = "tczyx"[5 - array.ndim :]
        else:
            array, axes, size = _first_level(found)
        if len(axes) != array.ndim:
            raise ImageError(f"has {array.ndim} dimensions and axes for {len(axes)}")
        volume: npt.NDArray[Any] = np.asarray(array[...])
    except MemoryError as error:
        raise ResourceError(f"{path}: no memory for the volume; cut out the part that has labels") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}; expected a greyscale OME-Zarr volume") from error
    except Exception as error:  # damaged folders make zarr and its codecs raise nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ImageError(f"{path}: not readable as OME-Zarr ({reason}); copy or export it again") from error
    return _checked(path, volume, axes), size


def _first_level(group: Any) -> tuple[Any, str, PixelSize | None]:
    attributes = dict(group.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if not scales:
        raise ImageError("has no multiscales metadata, so it is no image")
    if len(scales) > 1:
        raise ImageError(f"holds {len(scales)} images")
    (image,) = scales
    axes = image["axes"]
    level = image["datasets"][0]
    factors = np.ones(len(axes))
    for part in (*level.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
        if part["type"] == "scale":
            factors *= part["scale"]
    names = "".join(axis["name"].lower() for axis in axes)
    nm = {
        axis["name"].lower(): in_nm(float(factor), axis["unit"])
        for axis, factor in zip(axes, factors, strict=True)
        if axis.get("unit")
    }
    y_nm, x_nm = nm.get("y"), nm.get("x")
    size = None if y_nm is None or x_nm is None else PixelSize(y_nm=y_nm, x_nm=x_nm, z_nm=nm.get("z"))
    return group[level["path"]], names, size


def _checked(path: Path, volume: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    kept = [(axis, size) for axis, size in zip(axes, volume.shape, strict=True) if axis in "zyx" or size != 1]
    names, sizes = "".join(axis for axis, _ in kept), tuple(size for _, size in kept)
    if names not in ("zyx", "yx") or 0 in sizes or volume.dtype.kind not in "biuf":
        raise ImageError(
            f"{path}: found {volume.dtype} with axes {axes} of sizes {volume.shape}; expected one greyscale volume "
            "of axes zyx; choose a channel and a time"
        )
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        count = np.count_nonzero(~np.isfinite(volume))
        raise ImageError(f"{path}: {count} NaN or infinite pixels; expected finite numbers; replace them")
    volume_ZYX = volume.reshape((1, *sizes)[-3:])
    return np.ascontiguousarray(volume_ZYX.astype(volume.dtype.newbyteorder("="), copy=False))
