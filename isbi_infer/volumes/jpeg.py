"""Whether a JPEG image is whole, as far as its markers tell.

Decoders fill up what is missing from a scan without a word. Specification: ITU-T T.81 (1992), annex B.

Errors raised here do not name the file; whoever opens it does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from isbi_infer.errors import ImageError
from isbi_infer.volumes.tiff.directory import COPY

_DHT, _SOI, _EOI, _SOS, _DRI, _TEM = 0xC4, 0xD8, 0xD9, 0xDA, 0xDD, 0x01
_HUFFMAN = (0xC0, 0xC1)  # sequential frames of Huffman codes
_DCT = (*_HUFFMAN, 0xC2, 0xC9, 0xCA)
# Of several bytes of 255 the last one begins a marker, and a search looks at each once.
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_AC = 0x10  # class of a table of Huffman codes
_END_OF_BLOCK = 0
# Half a sector of a disk. Where the first code does not end a block, zero bits are blocks all of whose coefficients are
# one and the same, one after the other, which no image has.
_ZEROS = bytes(256)


def check_jpeg(data: bytes, tables: bytes = b"") -> tuple[int, int] | None:
    """Make sure that an image has its end marker, its restart markers, and no hole of zeros.

    Parameters
    ----------
    data : bytes
        Of the image; what follows its end marker does not matter.
    tables : bytes
        Those of a TIFF that its strips or tiles have in common.

    Returns
    -------
    (int, int) or None
        Where the codes of its only scan start and stop, if they are Huffman codes and sequential.

    Raises
    ------
    ImageError
        If something of it is missing.
    """
    frame = interval = blocks = 0
    first_codes: dict[int, int] = {}  # what the code of zero bits alone means, by table
    scans: list[tuple[int, int]] = []
    for marker, body, start, stop in (*_segments(tables), *_segments(data)):
        if marker in _DCT:
            frame, blocks = marker, _blocks(body)
        elif marker == _DHT:
            first_codes |= _first_codes(body)
        elif marker == _DRI:
            interval = int.from_bytes(body[:2], "big")
        elif marker == _SOS:
            scans.append((start, stop))
            if interval and blocks:
                _check_restarts(data, start, stop, -(-blocks // interval) - 1)
            first = first_codes.get(_AC | body[2] & 0xF, _END_OF_BLOCK)
            sequential = frame in _HUFFMAN and blocks
            if sequential and first != _END_OF_BLOCK and data.find(_ZEROS, start, stop) >= 0:
                raise ImageError(f"its JPEG data hold {len(_ZEROS)} zero bytes in a row; {COPY}")
        elif marker == _EOI and scans:
            return scans[0] if frame in _HUFFMAN and len(scans) == 1 else None
    raise ImageError(f"its JPEG data have no end marker; {COPY}")


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """Go from marker to marker: each with its parameters and where the codes that follow it start and stop."""
    at = 0
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            yield marker, b"", at, at
            return
        if marker in (_SOI, _TEM) or 0xD0 <= marker <= 0xD7:  # these have no parameters
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        body, at = data[at + 2 : at + length], at + length
        stop = at
        if marker == _SOS:
            end = _END.search(data, at)
            stop = end.start() if end else len(data)
            while stop > at and data[stop - 1] == 0xFF:  # fill bytes
                stop -= 1
        yield marker, body, at, stop
        at = stop


def _blocks(frame: bytes) -> int:
    """Return how many blocks of 8 x 8 pixels a greyscale frame has; 0 for another one."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return -(-height // 8) * -(-width // 8) if frame[5] == 1 else 0


def _first_codes(tables: bytes) -> dict[int, int]:
    """Return what the first code of each table means: zero bits alone, as codes are dealt out in rising order."""
    found, at = {}, 0
    while at + 17 < len(tables):
        found[tables[at]] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return found


def _check_restarts(data: bytes, start: int, stop: int, expected: int) -> None:
    found = len(_RESTART.findall(data, start, stop))
    if found < expected:
        raise ImageError(f"its JPEG data hold {found} of {expected} restart markers; {COPY}")
