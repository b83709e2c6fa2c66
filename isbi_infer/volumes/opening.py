"""Which source reads a path."""

from __future__ import annotations

import os
from pathlib import Path

from isbi_infer.errors import UsageError
from isbi_infer.volumes.images import open_images
from isbi_infer.volumes.protocol import Source
from isbi_infer.volumes.tiff.reader import open_stack

_TIFF = (".tif", ".tiff")


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise UsageError unless a result can be written in the format that a name asks for.

    Parameters
    ----------
    path : path
        Of the output; one without a suffix becomes a TIFF file too.
    """
    suffix = Path(path).suffix
    if suffix and suffix.lower() not in _TIFF:
        tiff = Path(path).with_suffix(".tif")
        raise UsageError(f"{path}: results are written as TIFF, not as {suffix}; name it {tiff}")


def open_source(
    path: str | os.PathLike[str],
    *,
    channel: int | None = None,
    time: int | None = None,
    series: int | None = None,
) -> Source:
    """Open a volume of greyscale sections.

    Parameters
    ----------
    path : path
        A TIFF file, or a folder of section images (TIFF, PNG or JPEG) in the natural order of their names.
    channel, time : int, optional
        Which one is read of a TIFF stack with channels or time points besides its sections, from 0.
    series : int, optional
        Which one is read of a TIFF file that holds several images or stacks, from 0.

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
        If a part of a folder is asked for.
    DependencyError
        If the images need a package that is not installed.
    """
    if not Path(path).is_dir():
        return open_stack(path, channel=channel, time=time, series=series)
    if (channel, time, series) != (None, None, None):
        raise UsageError(
            f"{path}: channel, time and series choose a part of a TIFF file; expected one instead of a folder"
        )
    return open_images(path)
