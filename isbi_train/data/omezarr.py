"""Stacks out of OME-Zarr and other chunked volumes, for training: one greyscale volume, read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ResourceError
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.zarr.reader import open_volume


def read_omezarr(path: Path) -> tuple[npt.NDArray[Any], PixelSize | None]:
    """Read the largest resolution of a volume.

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
        If tensorstore is not installed.
    ResourceError
        If there is no memory for it.
    """
    with open_volume(path, level=0) as source:
        info = source.info
        try:
            volume_ZYX = np.empty((info.sections, *info.shape[-2:]), source.dtype)
        except MemoryError as error:
            raise ResourceError(
                f"{path}: no memory for the volume; cut out the part that has labels"
            ) from error
        for z in range(info.sections):
            volume_ZYX[z] = source.read(z)
    return volume_ZYX, info.pixel_size
