"""A mask of where a volume has tissue at all: blocks outside of it are not computed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import UsageError
from isbi_infer.pixels.probability import encode
from isbi_infer.plan.deciding import record_source
from isbi_infer.plan.run import RunPlan, SourceRecord
from isbi_infer.volumes.opening import open_source
from isbi_infer.volumes.protocol import Block, Source
from isbi_infer.volumes.zarr.reader import is_volume, open_volume


class TissueMask:
    """Tells which blocks of a volume hold tissue.

    Parameters
    ----------
    source : Source
        The mask: 0 where there is no tissue. Of the volume's shape, or smaller by a whole factor along each axis; one
        section stands for all.
    shape : (int, int, int)
        (Z, Y, X) of the volume, in pixels.

    Raises
    ------
    UsageError
        If the mask is not of the volume's field of view.
    """

    def __init__(self, source: Source, shape: tuple[int, int, int]) -> None:
        own = (source.info.sections, *source.info.shape[-2:])
        factors = [max(1, ceil(size / part)) for size, part in zip(shape, own, strict=True)]
        if any(ceil(size / factor) != part for size, part, factor in zip(shape, own, factors, strict=True)):
            raise UsageError(
                f"{source.name}: a mask of {own} pixels (z, y, x) does not divide a volume of {shape}; expected its "
                "shape, or that over whole numbers, rounded up"
            )
        self._source, self._factors = source, factors

    def holds(self, block: Block) -> bool:
        """Return whether any pixel of a block is tissue."""
        z, y, x = (
            slice(start // factor, ceil(stop / factor))
            for (start, stop), factor in zip((block.z, block.y, block.x), self._factors, strict=True)
        )
        return any(self._source.read(section, (y, x)).any() for section in range(z.start, z.stop))


@contextmanager
def opened_mask(
    path: str | os.PathLike[str], shape: tuple[int, int, int]
) -> Iterator[tuple[TissueMask, SourceRecord]]:
    """Open a mask: a TIFF or a chunked volume, also of true and false.

    Parameters
    ----------
    path : path
        Of the mask.
    shape : (int, int, int)
        (Z, Y, X) of the volume, in pixels.

    Yields
    ------
    (TissueMask, SourceRecord)
        And what a plan remembers of it.

    Raises
    ------
    ImageError
        If it cannot be read.
    UsageError
        If it does not fit.
    """
    with open_volume(path) if is_volume(path) else open_source(path) as source:
        yield TissueMask(source, shape), record_source(source)


def without_tissue(plan: RunPlan, block: Block) -> npt.NDArray[np.generic]:
    """Return the result of a block without tissue: membrane, as on canvas.

    Parameters
    ----------
    plan : RunPlan
        Says what is stored.
    block : Block
        Of its layout.

    Returns
    -------
    ndarray, shape ``block.shape``
        Of the output's dtype.
    """
    return encode(np.zeros(block.shape, plan.model.output_dtype), plan.emit, plan.dtype)
