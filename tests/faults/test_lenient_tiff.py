"""Whole files that are odd: read, with a note where something was left aside, and still refused once they are cut."""

import struct

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import ImageError
from isbi_infer.volumes import open_stack

HEIGHT, WIDTH = 40, 24


@pytest.fixture
def image_ZYX():
    return np.random.default_rng(3).integers(1, 200, (3, HEIGHT, WIDTH)).astype(np.uint8)


def write(path, image_ZYX, *, extra=None, rows=HEIGHT, padding=0, lengths=None, without=()):
    """Write a classic TIFF by hand: pages of strips, each followed by `padding` bytes, with `extra` tags."""
    out, link = bytearray(b"II*\0\0\0\0\0"), 4
    for section_YX in image_ZYX:
        offsets, counts = [], []
        for row in range(0, HEIGHT, rows):
            data = section_YX[row : row + rows].tobytes()
            offsets.append(len(out))
            counts.append(len(data) + padding)
            out += data + bytes(padding)
        counts = lengths(counts) if lengths else counts
        values = {
            256: (4, 1, struct.pack("<I", WIDTH)),
            257: (4, 1, struct.pack("<I", HEIGHT)),
            258: (3, 1, struct.pack("<HH", 8, 0)),
            259: (3, 1, struct.pack("<HH", 1, 0)),
            262: (3, 1, struct.pack("<HH", 1, 0)),
            277: (3, 1, struct.pack("<HH", 1, 0)),
            278: (4, 1, struct.pack("<I", rows)),
        }
        for code, numbers in ((273, offsets), (279, counts)):
            packed = struct.pack(f"<{len(numbers)}I", *numbers)
            values[code] = (4, len(numbers), packed if len(numbers) == 1 else struct.pack("<I", len(out)))
            out += packed if len(numbers) > 1 else b""
        values |= extra or {}
        tags = sorted((code, *value) for code, value in values.items() if code not in without)
        struct.pack_into("<I", out, link, len(out))
        out += struct.pack("<H", len(tags))
        out += b"".join(struct.pack("<HHI", code, kind, count) + value for code, kind, count, value in tags)
        link = len(out)
        out += bytes(4)
    path.write_bytes(out)


UNREADABLE = {
    "unknown type": (129, 4, b"abcd"),
    "type 0": (0, 1, bytes(4)),
    "outside the file": (2, 1000, struct.pack("<I", 2**31)),
    "offset 0": (2, 100, struct.pack("<I", 0)),
    "longer than the file": (7, 2**32 - 1, struct.pack("<I", 8)),
}


@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("code", [65000, 305, 282, 34665, 700])
def test_unreadable_tags_that_pixels_do_not_need_are_left_aside_and_said(path, read, image_ZYX, code, what):
    write(path, image_ZYX, extra={code: UNREADABLE[what]})
    np.testing.assert_array_equal(read(path), image_ZYX)
    with open_stack(path) as reader:
        assert [note for note in reader.notes if f"tag {code} was left aside" in note] == list(reader.notes)
        assert len(reader.notes) == 1


@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("code", [256, 258, 262, 270, 273, 279, 317])
def test_unreadable_tags_that_pixels_need_are_refused(path, refused, image_ZYX, code, what):
    write(path, image_ZYX, extra={code: UNREADABLE[what]})
    refused(path, f"tag {code} cannot be read")


def test_sizes_of_signed_types_are_read_and_negative_ones_refused(path, read, refused, image_ZYX):
    write(
        path,
        image_ZYX,
        extra={256: (9, 1, struct.pack("<i", WIDTH)), 257: (8, 1, struct.pack("<hh", HEIGHT, 0))},
    )
    np.testing.assert_array_equal(read(path), image_ZYX)
    write(path, image_ZYX, extra={256: (9, 1, struct.pack("<i", -WIDTH))})
    refused(path, "tag 256 is negative")


@pytest.mark.parametrize("rows", [HEIGHT, 16, 7])
@pytest.mark.parametrize("padding", [0, 1, 12, 512])
@pytest.mark.parametrize("without", [(), (279,)], ids=["", "no lengths"])
def test_strips_that_are_padded_or_have_no_lengths_are_read(path, read, image_ZYX, rows, padding, without):
    write(path, image_ZYX, rows=rows, padding=padding, without=without)
    np.testing.assert_array_equal(read(path), image_ZYX)
    with open_stack(path) as reader:
        assert any("longer than their pixels" in note for note in reader.notes) == bool(
            padding and not without
        )
        window = slice(5, 33), slice(2, 9)
        np.testing.assert_array_equal(reader.read(1, window), image_ZYX[1][window])


def test_lengths_that_count_a_whole_last_strip_and_one_too_many_are_read(path, read, image_ZYX):
    write(path, image_ZYX, rows=16, lengths=lambda counts: [16 * WIDTH] * len(counts))
    np.testing.assert_array_equal(read(path), image_ZYX)
    write(path, image_ZYX, rows=16, lengths=lambda counts: [*counts, 5])
    np.testing.assert_array_equal(read(path), image_ZYX)


@pytest.mark.parametrize(
    "lengths",
    [
        lambda counts: [count - 1 for count in counts],
        lambda counts: [0] * len(counts),
        lambda counts: counts[:-1],
        lambda counts: [count + 10**6 for count in counts],
    ],
    ids=["too short", "zero", "too few", "beyond the file"],
)
def test_lengths_that_do_not_hold_the_pixels_are_refused(path, refused, image_ZYX, lengths):
    write(path, image_ZYX, rows=16, lengths=lengths)
    refused(path, "page 0 .*truncated or damaged")


@pytest.mark.parametrize(
    "options",
    [
        {"extra": {65000: UNREADABLE["outside the file"]}},
        {"without": (279,)},
        {"rows": 16, "without": (279,)},
        {"rows": 16, "padding": 12},
        {"rows": 16, "lengths": lambda counts: [16 * WIDTH] * len(counts)},
    ],
    ids=lambda options: " ".join(options),
)
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.more)])
def test_odd_files_that_are_cut_anywhere_are_refused(path, read, image_ZYX, options, step):
    write(path, image_ZYX, **options)
    whole = path.read_bytes()
    for length in range(0, len(whole), step):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read(path)


@pytest.mark.parametrize("sections", [3, 4])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_sections_stored_as_planes_of_one_page_are_refused_with_the_way_to_write_them(
    path, refused, sections, photometric
):
    planes_ZYX = np.zeros((sections, 32, 32), np.uint8)
    tifffile.imwrite(path, planes_ZYX, photometric=photometric, planarconfig="separate")
    refused(path, rf"in {sections} planes; .*imwrite\(..., photometric='minisblack'\)")


def test_a_comment_after_the_ome_xml_is_no_break(path, read, stack):
    tifffile.imwrite(path, stack(), ome=True, photometric="minisblack", metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata
    tifffile.imwrite(
        path,
        stack(),
        photometric="minisblack",
        metadata=None,
        description=("\ufeff" + text + "<!-- end -->\r\n").encode(),
    )
    np.testing.assert_array_equal(read(path), stack())
