"""The directories of a TIFF, walked strictly: every page and every value that its pixels need lies inside the file.

tifffile goes on with what it finds where the list of pages breaks off, loops or points outside the file, and
says so only in its log. Here that is an error, found before a pixel is read. Tags that the pixels do not need are left
aside where they are of an unknown type or lie outside the file, and noted. Specification: TIFF 6.0 (Adobe 1992; its
page 16 asks readers to skip fields of unknown types) and its 64-bit variant BigTIFF.

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

GDAL_NODATA = 42113  # the tag of the value that stands for "no data", as text

_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8", 6: "i1", 8: "i2", 9: "i4", 17: "i8"}
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIGNED = (6, 8, 9, 17)
_ITEM_BYTES |= {16: 8, 17: 8, 18: 8}
_MAX_TAGS = 4096
# Without these the pixels, their order or their meaning would be guessed. What other tags hold may be lost.
_NEEDED = frozenset(
    (
        254,
        255,
        256,
        257,
        258,
        259,
        262,
        266,
        270,
        273,
        277,
        278,
        279,
        284,
        292,
        293,
        317,
        322,
        323,
        324,
        325,
        338,
        339,
    )
) | {347, 32997, GDAL_NODATA, 50674}


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

    Attributes
    ----------
    left_aside : tuple of str
        A note for each tag that cannot be read and is not needed.
    """

    def __init__(self, file: BinaryIO, form: Format, where: str) -> None:
        self.where = where
        self.left_aside: tuple[str, ...] = ()
        self._file, self._form = file, form
        self._entries: dict[int, list[tuple[int, int, bytes]]] = {}

    def __contains__(self, code: int) -> bool:
        return code in self._entries

    def add(self, code: int, kind: int, count: int, value: bytes, size: int) -> None:
        """Take in a tag, or leave it aside where it cannot be read and is not needed.

        Raises
        ------
        ImageError
            If a tag that is needed is of an unknown type, or its value does not lie within the `size` bytes of the
            file.
        """
        wrong = ""
        if kind not in _ITEM_BYTES:
            wrong = f"it has the unknown type {kind}"
        elif (length := count * _ITEM_BYTES[kind]) > self._form.inline:
            start = self._form.unpack(self._form.offset, value)
            if start < 8 or start + length > size:
                wrong = "its value lies outside the file"
        if wrong and code in _NEEDED:
            raise ImageError(f"{self.where}: tag {code} cannot be read: {wrong}; {COPY}")
        if wrong:
            self.left_aside = (*self.left_aside, f"tag {code} was left aside: {wrong}")
            return
        self._entries.setdefault(code, []).append((kind, count, value))

    def count(self, code: int) -> int:
        """Return how many values a tag has, the first one of this code; 0 where it is missing."""
        return self._entries[code][0][1] if code in self._entries else 0

    def integers(self, code: int) -> npt.NDArray[np.integer]:
        """Read all values of a tag that is there.

        Raises
        ------
        ImageError
            If they are no integers, or negative.
        """
        kind, count, _ = self._entries[code][0]
        if kind not in _INTEGERS:
            raise ImageError(f"{self.where}: tag {code} is not made of integers; {COPY}")
        values = np.frombuffer(self.data(code)[0], self._form.order + _INTEGERS[kind])
        if kind in _SIGNED and count and values.min() < 0:
            raise ImageError(f"{self.where}: tag {code} is negative; {COPY}")
        return values

    def data(self, code: int) -> list[bytes]:
        """Read the bytes of all tags of one code."""
        found = []
        for kind, count, value in self._entries.get(code, ()):
            length = count * _ITEM_BYTES[kind]
            if length > self._form.inline:
                self._file.seek(self._form.unpack(self._form.offset, value))
                value = self._file.read(length)
            found.append(value[:length])
        return found

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
        raise ImageError(
            f"found a file that begins with {head[:8]!r}; expected a TIFF; export the stack as TIFF"
        )
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
