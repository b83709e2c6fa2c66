"""Files cut short or with other bytes in them: the right pixels or an ImageError, and never too few sections."""

import logging
import os

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import ImageError
from isbi_infer.volumes import open_stack

GREY = {"photometric": "minisblack", "metadata": None}
TINY_ZYX = np.arange(1, 31, dtype="uint8").reshape(2, 3, 5)
TINY = {
    "imagej": {
        "imagej": True,
        "metadata": {"axes": "ZYX", "unit": "nm", "spacing": 50},
        "resolution": (0.25, 0.25),
    },
    "ome": {"ome": True, "photometric": "minisblack", "metadata": {"axes": "ZYX"}},
    "plain": {**GREY, "rowsperstrip": 1},
    "zlib": {**GREY, "compression": "zlib"},
    "shaped": {"photometric": "minisblack", "metadata": {"axes": "ZYX"}},
    "big-endian BigTIFF": {**GREY, "byteorder": ">", "bigtiff": True},
    "zlib tiles of ImageJ": {
        "imagej": True,
        "metadata": {"axes": "ZYX"},
        "compression": "zlib",
        "tile": (16, 16),
    },
}
# Every byte of the first four; the others differ from them in little.
STEP = dict.fromkeys(TINY, 1) | {"shaped": 3, "big-endian BigTIFF": 3, "zlib tiles of ImageJ": 5}


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "ZYX"}, "truncate": True},
        {"ome": True, "photometric": "minisblack"},
        {"photometric": "minisblack", "compression": "zlib"},
        {**GREY, "compression": "zlib"},
        {**GREY, "tile": (16, 16)},
        {**GREY, "tile": (16, 16), "compression": "zlib"},
        GREY,
        {**GREY, "bigtiff": True},
    ],
    ids=str,
)
def test_truncated_files_are_refused_even_if_nobody_may_log(path, refused, stack, options, share):
    tifffile.imwrite(path, stack(30), **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, "truncated")
    logging.disable(logging.CRITICAL)
    try:
        refused(path, "truncated")
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", TINY)
def test_cut_anywhere_gives_the_right_pixels_or_an_error(path, read, kind, capfd):
    tifffile.imwrite(path, TINY_ZYX, **TINY[kind])
    whole = path.read_bytes()
    np.testing.assert_array_equal(read(path), TINY_ZYX)
    for length in range(0, len(whole), STEP[kind]):
        path.write_bytes(whole[:length])
        try:
            stack_ZYX = read(path)
        except ImageError:
            continue
        np.testing.assert_array_equal(stack_ZYX, TINY_ZYX, err_msg=f"cut at {length}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", TINY)
def test_any_byte_flipped_gives_all_sections_or_an_error(path, read, kind, capfd):
    tifffile.imwrite(path, TINY_ZYX, **TINY[kind])
    whole = path.read_bytes()
    for offset in range(0, len(whole), STEP[kind]):
        flip = 0xFF if offset % 2 else 0x01
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ flip]) + whole[offset + 1 :])
        try:
            stack_ZYX = read(path)
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most flips raise, some need not
            continue
        assert len(stack_ZYX) == len(TINY_ZYX), f"flipped at {offset}"
    assert capfd.readouterr() == ("", "")


def test_corrupt_compressed_bytes_are_refused_when_the_section_is_read(path, refused, stack):
    tifffile.imwrite(path, stack(), **GREY, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[1].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset + 40 : offset + 60] = bytes(20)
    path.write_bytes(data)
    with open_stack(path) as reader:
        np.testing.assert_array_equal(reader.read(0), stack()[0])
        np.testing.assert_array_equal(reader.read(2), stack()[2])
    assert "section 1" in refused(path)


def test_file_that_changes_while_it_is_read_is_refused(path, stack):
    tifffile.imwrite(path, stack(), **GREY)
    with open_stack(path) as reader:
        reader.read(0)
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")
        os.utime(path, ns=(1, 1))
        with pytest.raises(ImageError, match="changed"):
            reader.read(1)
        path.write_bytes(b"")
        with pytest.raises(ImageError):
            reader.read(2)
