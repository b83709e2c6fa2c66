"""Whether a PNG image is whole: decoders fill up rows that are missing with 0, without a word.

Specification: ISO/IEC 15948:2004. Errors raised here do not name the file; whoever opens it does.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from isbi_infer.errors import ImageError
from isbi_infer.volumes.tiff.directory import COPY

_PIECE = 2**14  # bytes; inflated at most 1032 times that many
_ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)  # first row and column of each pass, and steps


def check_rows(data: bytes) -> None:
    """Make sure that an image holds the rows that it declares.

    Parameters
    ----------
    data : bytes
        Of the image, whose header and checksums are sound.

    Raises
    ------
    ImageError
        If it holds fewer bytes of rows.
    """
    width, height, bits, _, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    needed = 0
    for y, x, step_y, step_x in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        rows, columns = -(-(height - y) // step_y), -(-(width - x) // step_x)
        needed += rows * (columns * bits // 8 + 1) if columns > 0 else 0  # each row begins with its filter
    found, inflate = 0, zlib.decompressobj()
    for piece in _pieces(data):
        found += len(inflate.decompress(piece))
        if found >= needed:
            return
    raise ImageError(f"holds {found} of {needed} bytes of its rows; {COPY}")


def _pieces(data: bytes) -> Iterator[bytes]:
    """Return the compressed rows in pieces: what the chunks IDAT that follow each other hold, as decoders take them."""
    at, begun = 8, False
    while kind := data[at + 4 : at + 8]:
        stop = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IDAT":
            begun = True
            for start in range(at + 8, stop, _PIECE):
                yield data[start : min(start + _PIECE, stop)]
        elif begun:
            return
        at = stop + 4
