"""The pages of a TIFF as greyscale sections: what they declare, and whether the file can hold it.

Errors raised here do not name the file; whoever opens it does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError
from isbi_infer.volumes.tiff.description import sections_declared
from isbi_infer.volumes.tiff.directory import COPY, GDAL_NODATA, Tags, walk_directories

_DTYPES = {(1, 8): "u1", (1, 16): "u2", (1, 32): "u4", (1, 64): "u8", (2, 8): "i1", (2, 16): "i2"}
_DTYPES |= {(2, 32): "i4", (2, 64): "i8", (3, 16): "f2", (3, 32): "f4", (3, 64): "f8"}
_PHOTOMETRICS = {2: "RGB", 3: "palette colours", 4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}
_PHOTOMETRICS |= {32803: "a colour filter array", 34892: "linear raw data"}
# More pixels than this are a damaged size, not a section; nor can these codecs shrink data further than this.
_MAX_PIXELS = 2**36
_PADDING = 4096  # bytes by which a length may be rounded up beyond the end of the file, where the pixels are all there
_MAX_RATIO = {5: 4096, 8: 1040, 32946: 1040, 50013: 1040, 32773: 65}


class Layout(NamedTuple):
    """What all pages of one stack have in common; the values are those of the tags.

    Attributes
    ----------
    height, width, bits, sample_format : int
        Of the pixels.
    inverted : bool
        Whether 0 is white.
    role : int
        0 for an image, 1 for a reduced copy, 4 for a mask.
    unfit : str
        Why it is no section: what was found, what was expected and what to do; empty where it may be one.
    """

    height: int
    width: int
    bits: int
    sample_format: int
    inverted: bool
    role: int
    unfit: str = ""

    def __str__(self) -> str:
        role = {0: "", 1: ", reduced copy"}.get(self.role, ", mask")
        white = ", min-is-white" if self.inverted else ""
        unfit = f", {self.unfit.split(';')[0]}" if self.unfit else ""
        return f"{self.width} x {self.height} px of {self.bits} bits{white}{role}{unfit}"

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of the pixels, in the machine's byte order."""
        return np.dtype(_DTYPES[self.sample_format, self.bits])

    @property
    def nbytes(self) -> int:
        """Of one section."""
        return self.height * self.width * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Attributes
    ----------
    layout : Layout
        Of its pixels.
    compression, predictor, orientation : int
        Values of these tags.
    strips : tuple of int
        Where its rows begin in the file if they lie there as they are, by strips; else empty.
    rows : int
        Number of rows in each strip but the last.
    declares : int or None
        How many sections its own description declares, where it has one.
    notes : tuple of str
        What was taken for granted.
    nodata : bytes
        The tag of the value that stands for "no data", as it stands; empty where there is none.
    """

    layout: Layout
    compression: int
    predictor: int
    orientation: int
    strips: tuple[int, ...]
    rows: int
    declares: int | None
    notes: tuple[str, ...]
    nodata: bytes = b""

    @property
    def data_offset(self) -> int | None:
        """Where its rows begin in the file if they lie there as they are, in one piece; else None."""
        return self.strips[0] if len(self.strips) == 1 else None


def walk_pages(file: BinaryIO) -> tuple[tuple[Page, ...], Literal["<", ">"]]:
    """Read what all pages declare.

    Parameters
    ----------
    file : BinaryIO
        The open file; its position is moved.

    Returns
    -------
    pages : tuple of Page
        At least one.
    order : {"<", ">"}
        The order of bytes in the file.

    Raises
    ------
    ImageError
        If this is no TIFF, or points outside itself.
    """
    size = os.fstat(file.fileno()).st_size
    pages = tuple(_page(tags, size) for tags in walk_directories(file, size))
    if not pages:
        raise ImageError("a TIFF without pages; expected one greyscale image a section; export it again")
    file.seek(0)
    return pages, "<" if file.read(1) == b"I" else ">"


def notes_on(pages: tuple[Page, ...]) -> tuple[str, ...]:
    """Collect notes for the user about reading these pages.

    Parameters
    ----------
    pages : tuple of Page
        From `walk_pages`.

    Returns
    -------
    tuple of str
        One sentence each, without repetitions.
    """
    inverted = ["min-is-white pixels were inverted"] if pages[0].layout.inverted else []
    turned = {page.orientation for page in pages} - {1}
    return (
        *inverted,
        *dict.fromkeys(note for page in pages for note in page.notes),
        *(f"the orientation tag ({code}) was ignored: pixels are as stored" for code in sorted(turned)),
    )


def _page(tags: Tags, size: int) -> Page:
    layout = Layout(
        height=tags.first(257, 0),
        width=tags.first(256, 0),
        bits=tags.first(258, 1),
        sample_format=tags.first(339, 1),
        inverted=tags.first(262, 1) == 0,
        role=tags.first(254, 1 if tags.first(255, 1) == 2 else 0) & 0b101,
    )
    pixels = layout.height * layout.width
    if not 0 < pixels <= _MAX_PIXELS:
        declared = f"{tags.where} declares {layout.width} x {layout.height} px"
        raise ImageError(f"{declared}; expected between 1 and {_MAX_PIXELS} px; {COPY}")
    compression, predictor = tags.first(259, 1), tags.first(317, 1)
    declares = next(filter(None, (sections_declared(text) for text in tags.data(270))), None)
    if unfit := _colours(tags) or _dtype(layout):
        # Beside sections it may stand, as thumbnails do; `isbi_infer.volumes.tiff.series` tells.
        return Page(layout._replace(unfit=unfit), compression, predictor, 1, (), 0, declares, ())
    plain = compression == predictor == tags.first(266, 1) == 1 and 322 not in tags
    offsets, rows, longer = _segments(tags, layout, compression, size)
    strips: tuple[int, ...] = ()
    if plain:
        row_bytes = layout.width * layout.dtype.itemsize
        whole = bool((offsets[:-1] + rows * row_bytes == offsets[1:]).all())
        strips, rows = ((int(offsets[0]),), layout.height) if whole else (tuple(offsets.tolist()), rows)
    unsaid = "" if 262 in tags else "the file does not say whether 0 is black or white; taken for black"
    copies = "reduced copies in the file were left aside" if tags.count(330) else ""
    return Page(
        layout=layout,
        compression=compression,
        predictor=predictor,
        orientation=tags.first(274, 1) if 274 in tags else 1,
        strips=strips,
        rows=rows,
        declares=declares,
        notes=tuple(filter(None, (unsaid, copies, longer, *tags.left_aside))),
        nodata=b"".join(tags.data(GDAL_NODATA)[:1]),
    )


def _colours(tags: Tags) -> str:
    """Return why a page is not greyscale; nothing where it is."""
    photometric, samples, depth = tags.first(262, 1), tags.first(277, 1), tags.first(32997, 1)
    found = ""
    if photometric not in (0, 1):
        found = _PHOTOMETRICS.get(photometric, f"photometric interpretation {photometric}")
    elif samples != 1:
        found = f"{samples} samples a pixel"
    elif depth != 1:
        found = f"{depth} slices in one page"
    if not found:
        return ""
    remedy = "convert it to 8- or 16-bit greyscale"
    if samples > 1 and tags.first(284, 1) == 2:  # what tifffile makes of 3 or 4 sections, if it is not told
        found = f"{found} in {samples} planes"
        remedy = (
            f"if these are {samples} sections, write them with tifffile.imwrite(..., photometric='minisblack'); "
            "if they are colours, convert them to greyscale"
        )
    return f"{found}; expected greyscale; {remedy}"


def _dtype(layout: Layout) -> str:
    """Return why the type of a page's pixels cannot be read; nothing where it can."""
    if (layout.sample_format, layout.bits) not in _DTYPES:
        found = {1: "integers", 2: "integers", 3: "floats", 5: "complex integers", 6: "complex numbers"}.get(
            layout.sample_format, f"samples of format {layout.sample_format}"
        )
        return f"{layout.bits}-bit {found}; expected 8- or 16-bit integers or 32-bit floats; convert it"
    if layout.inverted and layout.sample_format == 3:
        return "min-is-white floats; expected min-is-black; invert it and save it again"
    return ""


def _segments(
    tags: Tags, layout: Layout, compression: int, size: int
) -> tuple[npt.NDArray[np.int64], int, str]:
    """Read where the strips or tiles lie and how many rows they have, check that they can hold the pixels, and note."""
    where, item = tags.where, layout.dtype.itemsize
    tiled, as_they_are = 322 in tags, compression == 1
    if tiled:
        tile_width, rows = tags.first(322, 0), tags.first(323, 0)
        if tile_width < 1 or rows < 1:
            raise ImageError(f"{where} declares tiles of {tile_width} x {rows} px; {COPY}")
        expected = -(-layout.height // rows) * -(-layout.width // tile_width)
        full = last = rows * tile_width * item
    else:
        rows = min(max(1, tags.first(278, layout.height)), layout.height)
        expected = -(-layout.height // rows)
        full = rows * layout.width * item
        last = layout.nbytes - (expected - 1) * full
    needed = (expected - 1) * full + last
    at, of = (324, 325) if 324 in tags else (273, 279)
    unsaid = as_they_are and not tiled and of not in tags
    found_offsets, found_counts = tags.count(at), expected if unsaid else tags.count(of)
    more = as_they_are and not tiled and min(found_offsets, found_counts) >= expected
    if not more and not found_offsets == found_counts == expected:
        found = f"{found_offsets} strips or tiles and {found_counts} lengths of them"
        raise ImageError(f"{where} lists {found}; expected {expected}; {COPY}")
    if needed > size and as_they_are:  # before memory is taken for as many strips
        raise ImageError(
            f"{where} has pixels beyond the end of the file; {layout} take {needed} bytes; {COPY}"
        )
    least = np.full(expected, full if as_they_are else 1, np.int64)
    least[-1] = last if as_they_are else 1
    stored_offsets = tags.integers(at)[:expected]
    stored_counts = least if unsaid else tags.integers(of)[:expected]
    if stored_offsets.max() > size or stored_counts.max() > size:  # first, so that no sum below can overflow
        raise ImageError(f"{where} has pixels beyond the end of the file; {COPY}")
    offsets, counts = stored_offsets.astype(np.int64), stored_counts.astype(np.int64)
    if offsets.min() < 8 or counts.min() < 1:
        raise ImageError(f"{where} lacks the pixels of a strip or tile; {COPY}")
    stored = int(counts.sum())
    if as_they_are and (counts < least).any():
        raise ImageError(f"{where} stores {stored} bytes; {layout} take {needed}; {COPY}")
    # Some writers round lengths up; what counts is that the pixels are there.
    padded = as_they_are & (counts <= np.maximum(full, least + _PADDING))
    ends = offsets + np.where(padded, least, counts)
    if ends.max() > size or (stored > size and not as_they_are):
        raise ImageError(f"{where} has pixels beyond the end of the file; {COPY}")
    if needed > _MAX_RATIO.get(compression, 2**36) * stored:
        raise ImageError(f"{where} declares {layout} in {stored} compressed bytes; {COPY}")
    longer = as_they_are and bool((counts > full).any())
    note = (
        "strips or tiles are longer than their pixels take; the rest of each was left aside" if longer else ""
    )
    return offsets, rows, note
