"""The directories of a TIFF, walked strictly: every page and every tag's value has to lie inside the file.

tifffile goes on with what it finds where the list of pages breaks off, loops or points outside the file, and
says so only in its log. Here that is an error, found before a pixel is read. Specification: TIFF 6.0 (Adobe
1992) and its 64-bit variant BigTIFF.

Errors raised here do not name the file; whoever opens it does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError

COPY = "the file is truncated or damaged; copy or export it again"

_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_ITEM_BYTES |= {16: 8, 17: 8, 18: 8}
_MAX_TAGS = 4096
_SIGNATURES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a Git-LFS pointer (run 'git lfs pull')",
}


class Format(NamedTuple):
    """Where classic TIFF and BigTIFF differ, as `struct` formats.

    Attributes
    ----------
    order : str
        Of bytes, "<" or ">".
    number, entry, offset : str
        The number of tags, one tag, and an offset.
    inline : int
        Up to how many bytes a value stands in the tag itself.
    """

    order: str
    number: str
    entry: str
    offset: str
    inline: int

    def unpack(self, what: str, data: bytes) -> int:
        """Unpack one integer."""
        return int(struct.unpack(self.order + what, data)[0])


class Tags:
    """The tags of one page; their values are read from the file when asked for.

    Parameters
    ----------
    file : BinaryIO
        The open file.
    form : Format
        Of this file.
    where : str
        Names the page in errors.
    """

    def __init__(self, file: BinaryIO, form: Format, where: str) -> None:
        self.where = where
        self._file, self._form = file, form
        self._entries: dict[int, tuple[int, int, bytes]] = {}

    def __contains__(self, code: int) -> bool:
        return code in self._entries

    def add(self, code: int, kind: int, count: int, value: bytes, size: int) -> None:
        """Take in a tag, whose value has to lie within the `size` bytes of the file; the first of two counts.

        Raises
        ------
        ImageError
            If the value lies elsewhere, or is of an unknown type.
        """
        if kind not in _ITEM_BYTES:
            raise ImageError(f"{self.where}: tag {code} has the unknown type {kind}; {COPY}")
        length = count * _ITEM_BYTES[kind]
        if length > self._form.inline:
            start = self._form.unpack(self._form.offset, value)
            if start < 8 or start + length > size:
                raise ImageError(f"{self.where}: the value of tag {code} lies outside the file; {COPY}")
        self._entries.setdefault(code, (kind, count, value))

    def count(self, code: int) -> int:
        """Return how many values a tag has; 0 where it is missing."""
        return self._entries[code][1] if code in self._entries else 0

    def integers(self, code: int) -> npt.NDArray[np.unsignedinteger]:
        """Read all values of a tag that is there.

        Raises
        ------
        ImageError
            If they are no unsigned integers.
        """
        kind, count, value = self._entries[code]
        if kind not in _INTEGERS:
            raise ImageError(f"{self.where}: tag {code} is not made of integers; {COPY}")
        length = count * _ITEM_BYTES[kind]
        if length > self._form.inline:
            self._file.seek(self._form.unpack(self._form.offset, value))
            value = self._file.read(length)
        return np.frombuffer(value[:length], self._form.order + _INTEGERS[kind])

    def first(self, code: int, default: int) -> int:
        """Read the first or only value of a tag, or take the default where it is missing."""
        return int(self.integers(code)[0]) if self.count(code) else default


def walk_directories(file: BinaryIO, size: int) -> Iterator[Tags]:
    """Go through all pages.

    Parameters
    ----------
    file : BinaryIO
        The open file; its position is moved.
    size : int
        Bytes in the file.

    Yields
    ------
    Tags
        Of each page in turn.

    Raises
    ------
    ImageError
        If this is no TIFF, or its list of pages loops or leads outside the file.
    """
    form, offset = _header(file.read(64))
    seen: set[int] = set()
    while offset:
        where = f"page {len(seen)}"
        if offset in seen:
            raise ImageError(f"{where} leads back to an earlier page; {COPY}")
        seen.add(offset)
        tags, offset = _directory(file, form, offset, size, where)
        yield tags


def _header(head: bytes) -> tuple[Format, int]:
    """Return the format and the offset of the first directory."""
    if not head:
        raise ImageError("the file is empty; expected a TIFF; copy or export it again")
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        found = next((name for magic, name in _SIGNATURES.items() if head.startswith(magic)), "")
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            found = "an HTML page (a failed download?)"
        found = found or f"a file that begins with {head[:8]!r}"
        raise ImageError(f"found {found}; expected a TIFF; export the stack as TIFF")
    version = int.from_bytes(head[2:4], "little" if order == "<" else "big")
    if version == 42 and len(head) >= 8:
        form = Format(order, "H", "HHI4s", "I", 4)
        return form, form.unpack("I", head[4:8])
    if version == 43 and len(head) >= 16 and struct.unpack(order + "HH", head[4:8]) == (8, 0):
        form = Format(order, "Q", "HHQ8s", "Q", 8)
        return form, form.unpack("Q", head[8:16])
    raise ImageError(f"found a TIFF header of version {version}; expected 42 or 43 in full; {COPY}")


def _directory(file: BinaryIO, form: Format, offset: int, size: int, where: str) -> tuple[Tags, int]:
    """Read one directory: its tags and the offset of the next one, 0 after the last."""
    number, link = struct.calcsize(form.order + form.number), struct.calcsize(form.order + form.offset)
    entry = struct.Struct(form.order + form.entry)
    if not 8 <= offset <= size - number:
        raise ImageError(f"{where} should begin at byte {offset} of {size}; {COPY}")
    file.seek(offset)
    tag_count = form.unpack(form.number, file.read(number))
    if not 1 <= tag_count <= _MAX_TAGS:
        raise ImageError(f"{where} claims {tag_count} tags; {COPY}")
    table = file.read(tag_count * entry.size + link)
    if len(table) < tag_count * entry.size + link:
        raise ImageError(f"{where} ends outside the file; {COPY}")
    tags = Tags(file, form, where)
    for code, kind, count, value in entry.iter_unpack(table[:-link]):
        tags.add(code, kind, count, value, size)
    return tags, form.unpack(form.offset, table[-link:])
