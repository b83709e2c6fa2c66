"""Which source reads a path."""

from __future__ import annotations

import os
from pathlib import Path

from isbi_infer.volumes.images import open_images
from isbi_infer.volumes.protocol import Source
from isbi_infer.volumes.tiff.reader import open_stack


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
