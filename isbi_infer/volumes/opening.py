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


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a volume of greyscale sections.

    Parameters
    ----------
    path : path
        A TIFF file, or a folder of section images (TIFF, PNG or JPEG) in the natural order of their names.

    Returns
    -------
    Source
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    ImageError
        If it is no readable volume; the message names what was found instead.
    DependencyError
        If the images need a package that is not installed.
    """
    return open_images(path) if Path(path).is_dir() else open_stack(path)
