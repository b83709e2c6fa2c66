"""Which source reads a path."""

from __future__ import annotations

import os

from isbi_infer.volumes.protocol import Source
from isbi_infer.volumes.tiff.reader import open_stack


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a volume of greyscale sections.

    Parameters
    ----------
    path : path
        A TIFF file.

    Returns
    -------
    Source
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    ImageError
        If it is no readable volume; the message says what was found instead.
    """
    return open_stack(path)
