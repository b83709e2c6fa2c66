"""Which source reads a path."""

from __future__ import annotations

import os
from pathlib import Path

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.volumes.images import open_images
from isbi_infer.volumes.protocol import Source
from isbi_infer.volumes.tiff.reader import open_stack
from isbi_infer.volumes.zarr.reader import ZarrSource, is_volume, open_volume

_TIFF = (".tif", ".tiff")


def is_chunked_output(path: str | os.PathLike[str]) -> bool:
    """Return whether a result of this name is stored as OME-Zarr, and not as TIFF."""
    return Path(path).suffix.lower() == ".zarr"


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise UsageError unless a result can be written in the format that a name asks for.

    Parameters
    ----------
    path : path
        Of the output; one without a suffix becomes a TIFF file too.
    """
    suffix = Path(path).suffix
    if is_chunked_output(path):
        return
    if suffix and suffix.lower() not in _TIFF:
        tiff = Path(path).with_suffix(".tif")
        raise UsageError(f"{path}: results are written as TIFF or OME-Zarr, not as {suffix}; name it {tiff}")


def open_source(
    path: str | os.PathLike[str],
    *,
    channel: int | None = None,
    time: int | None = None,
    series: int | None = None,
    level: str | int | None = None,
    strict: bool = False,
    grey: bool = True,
) -> Source:
    """Open a volume of greyscale sections.

    Parameters
    ----------
    path : path
        A TIFF file; a folder of section images (TIFF, PNG or JPEG) in the natural order of their names; OME-Zarr, plain
        Zarr, N5 or a precomputed volume, as a folder or an address (http, https, s3 or gs).
    channel, time : int, optional
        Which one is read of a stack with channels or time points besides its sections, from 0.
    series : int, optional
        Which one is read of a TIFF file that holds several images or stacks, from 0.
    level : str or int, optional
        Which resolution is read of a chunked volume; the largest when not given.
    strict : bool
        Take a missing chunk of a chunked volume for an error, and not for its fill value.
    grey : bool
        Refuse a chunked volume that holds labels: true and false, or what it says are ids of segments.

    Returns
    -------
    Source
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    ImageError
        If it is no readable volume; the message names what was found instead, and how to choose where a file holds
        more than one stack.
    UsageError
        If a part of a volume is asked for that volumes of its kind do not have.
    DependencyError
        If the images need a package that is not installed.
    """
    if is_volume(path):
        if series is not None:
            raise UsageError(
                f"{path}: series are parts of TIFF files; choose a --level, or leave --series out"
            )
        source = open_volume(path, channel=channel, time=time, level=level, strict=strict)
        if grey and source.image.segments:
            raise ImageError(f"{path}: holds ids of segments, as it says itself; expected grey values")
        if grey and source.dtype.kind == "b":
            raise ImageError(f"{path}: holds true and false alone, as labels do; expected grey values")
        return source
    if level is not None or strict:
        raise UsageError(f"{path}: has neither levels nor chunks; leave --level and --strict out")
    if not os.path.isdir(path):
        return open_stack(path, channel=channel, time=time, series=series)
    if (channel, time, series) != (None, None, None):
        raise UsageError(
            f"{path}: channel, time and series choose a part of a TIFF file; expected one instead of a folder"
        )
    return open_images(path)


def nearest_level(source: Source, size_nm: float | None) -> Source:
    """Return a source of the level nearest to a pixel size, where there are levels and none was chosen.

    Parameters
    ----------
    source : Source
        From `open_source`.
    size_nm : float or None
        Side of a pixel; None leaves the source as it is.
    """
    return source.nearest(size_nm) if isinstance(source, ZarrSource) and size_nm is not None else source
