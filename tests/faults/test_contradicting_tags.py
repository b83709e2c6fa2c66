"""Tags that contradict each other, the length of the file or other pages: refused before pixels are believed."""

import re
import struct
import tracemalloc

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import ImageError
from isbi_infer.volumes import open_stack

GREY = {"photometric": "minisblack", "metadata": None}


@pytest.mark.parametrize(("pages", "back_to"), [(5, 0), (5, 4), (120, 0), (120, 110)])
def test_page_list_that_loops_is_refused(path, refused, stack, pages, back_to):
    tifffile.imwrite(path, stack(pages, 4), **GREY)
    with tifffile.TiffFile(path) as tiff:
        offsets = [page.offset for page in tiff.pages]
        link = offsets[-1] + 2 + 12 * len(tiff.pages[pages - 1].tags)
    data = bytearray(path.read_bytes())
    assert data[link : link + 4] == bytes(4)
    data[link : link + 4] = struct.pack("<I", offsets[back_to])
    path.write_bytes(data)
    refused(path, "leads back")


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (2_000_000, {}),
        (2_000_000, {"tile": (16, 16)}),
        (2_000_000, {"compression": "zlib"}),
        (2_000_000, {"compression": "lzma"}),
        (60_000, {}),
        (60_000, {"tile": (16, 16)}),
        (60_000, {"compression": "zlib"}),
    ],
)
def test_absurd_declared_sizes_are_refused_before_anything_is_read(path, stack, patch, size, options):
    tifffile.imwrite(path, stack(1), **GREY, **options)
    for tag in ("ImageWidth", "ImageLength", *(() if "tile" in options else ("RowsPerStrip",))):
        patch(path, tag, size)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=re.escape(str(path))):
            open_stack(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_images_of_no_pixels_are_refused(path, refused, stack, patch):
    tifffile.imwrite(path, stack(1), **GREY)
    patch(path, "ImageWidth", 0)
    refused(path, "0 x 32 px")


def test_several_series_are_refused_and_listed(path, refused, stack):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(stack(3, 32), **GREY)
        tiff.write(stack(2, 16), **GREY)
    refused(path, r"2 series of pages \(3 of 32 x 32 px of 8 bits; 2 of 16 x 16 px of 8 bits\)")


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_pages_of_mixed_types_are_refused(path, refused, stack, dtype):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(stack(1)[0], **GREY)
        tiff.write(stack(1)[0].astype(dtype), **GREY)
    refused(path, "2 series")


def test_reduced_copies_and_masks_among_the_pages_are_not_sections(path, refused, stack, patch):
    for kind, says in ((1, "reduced copy"), (4, "mask")):
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(stack(1)[0], **GREY, subfiletype=0)
            tiff.write(stack(1)[0], **GREY, subfiletype=1)
        patch(path, "NewSubfileType", kind, page=1)
        refused(path, says)


@pytest.mark.parametrize(
    ("tag", "value", "says"),
    [
        ("StripOffsets", 10_000_000, "beyond the end"),
        ("StripOffsets", 0, "lacks the pixels"),
        ("StripByteCounts", 10_000_000, "beyond the end"),
        ("StripByteCounts", 0, "lacks the pixels"),
        ("StripByteCounts", 500, "stores 500 bytes"),
        ("RowsPerStrip", 4, "expected 8"),
        ("ImageWidth", 33, "33 x 32 px of 8 bits take 1056"),
        ("ImageWidth", 31, "1 of 31 x 32 px of 8 bits"),
    ],
)
def test_tags_that_contradict_each_other_are_refused(path, refused, stack, patch, tag, value, says):
    tifffile.imwrite(path, stack(), **GREY)
    patch(path, tag, value, page=1)
    refused(path, says)


def test_decompression_bomb_is_refused(path, refused, patch):
    tifffile.imwrite(path, np.zeros((100, 100), "uint8"), **GREY, compression="zlib", rowsperstrip=100)
    for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
        patch(path, tag, 200_000)
    refused(path, "compressed bytes")
