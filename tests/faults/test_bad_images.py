"""Damaged, foreign and unusable images: an ImageError of one line, and never fewer sections than declared."""

import builtins
import importlib
import logging
import os
import re
import struct
import threading
import tracemalloc

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import ImageError, ResourceError
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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bad.tif"


def _read(path):
    with open_stack(path) as reader:
        return np.stack(list(reader))


def _refused(path, says=""):
    """Check that an image is refused with one line that names it, and give the line."""
    with pytest.raises(ImageError, match=says or None) as raised:
        _read(path)
    line = str(raised.value)
    assert raised.value.exit_code == 4
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


def _stack(sections=3, size=32, dtype="uint8"):
    return np.random.default_rng(1).integers(0, 200, (sections, size, size)).astype(dtype)


def _patch(path, tag, value, page=0):
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[page].tags[tag].overwrite(value)


def _cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


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
def test_truncated_files_are_refused_even_if_nobody_may_log(path, options, share):
    tifffile.imwrite(path, _stack(30), **options)
    _cut(path, share)
    _refused(path, "truncated")
    logging.disable(logging.CRITICAL)
    try:
        _refused(path, "truncated")
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", TINY)
def test_cut_anywhere_gives_the_right_pixels_or_an_error(path, kind, capfd):
    tifffile.imwrite(path, TINY_ZYX, **TINY[kind])
    whole = path.read_bytes()
    np.testing.assert_array_equal(_read(path), TINY_ZYX)
    for length in range(0, len(whole), STEP[kind]):
        path.write_bytes(whole[:length])
        try:
            stack_ZYX = _read(path)
        except ImageError:
            continue
        np.testing.assert_array_equal(stack_ZYX, TINY_ZYX, err_msg=f"cut at {length}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", TINY)
def test_any_byte_flipped_gives_all_sections_or_an_error(path, kind, capfd):
    tifffile.imwrite(path, TINY_ZYX, **TINY[kind])
    whole = path.read_bytes()
    for offset in range(0, len(whole), STEP[kind]):
        flip = 0xFF if offset % 2 else 0x01
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ flip]) + whole[offset + 1 :])
        try:
            stack_ZYX = _read(path)
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most flips raise, some need not
            continue
        assert len(stack_ZYX) == len(TINY_ZYX), f"flipped at {offset}"
    assert capfd.readouterr() == ("", "")


def test_corrupt_compressed_bytes_are_refused_when_the_section_is_read(path):
    tifffile.imwrite(path, _stack(), **GREY, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[1].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset + 40 : offset + 60] = bytes(20)
    path.write_bytes(data)
    with open_stack(path) as reader:
        np.testing.assert_array_equal(reader.read(0), _stack()[0])
        np.testing.assert_array_equal(reader.read(2), _stack()[2])
    assert "section 1" in _refused(path)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("x"),
        TypeError("x"),
        IndexError("x"),
        KeyError("x"),
        struct.error("x"),
        OSError(5, "EIO"),
        AssertionError(),
    ],
)
def test_whatever_the_decoder_raises_is_an_image_error(path, error, monkeypatch):
    def fail(self, **options):
        raise error

    tifffile.imwrite(path, _stack(), **GREY, compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    assert "section 0" in _refused(path, type(error).__name__ if not isinstance(error, OSError) else "EIO")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("x"), RecursionError("x")])
def test_whatever_the_parser_raises_is_an_image_error(path, error, monkeypatch):
    def fail(*arguments, **options):
        raise error

    tifffile.imwrite(path, _stack(), **GREY)
    monkeypatch.setattr(tifffile, "TiffFile", fail)
    _refused(path)


def test_error_that_tifffile_only_logs_is_an_image_error(path, monkeypatch):
    original = tifffile.TiffPage.asarray

    def log_and_go_on(self, **options):
        logging.getLogger("tifffile").error("segment is\nmissing")
        return original(self, **options)

    tifffile.imwrite(path, _stack(), **GREY, compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", log_and_go_on)
    _refused(path, "segment is missing")


def test_what_other_threads_log_is_neither_taken_nor_lost(path, monkeypatch, caplog):
    logger = logging.getLogger("tifffile")
    original = tifffile.TiffPage.asarray

    def let_another_thread_log(self, **options):
        thread = threading.Thread(target=logger.error, args=("of another thread",))
        thread.start()
        thread.join()
        logger.warning("of this thread")
        return original(self, **options)

    tifffile.imwrite(path, _stack(1), **GREY, compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", let_another_thread_log)
    with open_stack(path) as reader:
        np.testing.assert_array_equal(reader.read(0), _stack(1)[0])
    assert [record.getMessage() for record in caplog.records] == ["of another thread"]
    assert not logger.filters


def test_error_logged_on_opening_leaves_no_open_file(path, monkeypatch):
    opened = []
    original, original_open = tifffile.TiffFile, builtins.open

    def log_and_go_on(file, **options):
        opened.append(file)
        logging.getLogger("tifffile").error("odd")
        return original(file, **options)

    tifffile.imwrite(path, _stack(), **GREY)
    monkeypatch.setattr(tifffile, "TiffFile", log_and_go_on)
    _refused(path, "odd")
    assert opened[0].closed
    assert builtins.open is original_open


def test_no_memory_for_a_sound_section_is_a_resource_error(path, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    tifffile.imwrite(path, _stack(), **GREY)
    with open_stack(path) as reader:
        monkeypatch.setattr(np, "empty", fail)
        with pytest.raises(ResourceError, match=re.escape(str(path))) as raised:
            reader.read(0)
    assert raised.value.exit_code == 7


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"\n  <html>", "HTML"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "JPEG"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"just some text", "begins with"),
        (b"I", "begins with"),
        (b"II", "version"),
        (b"II*\0", "truncated"),
        (b"II*\0\x08\0\0\0", "page 0"),
        (b"II*\0\0\0\0\0", "without pages"),
        (b"MM\0+\0\x08\0\0" + bytes(8), "without pages"),
        (b"MM\0+\0\x04\0\0" + bytes(8), "version 43"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "0 tags"),
    ],
)
def test_files_that_are_no_tiff_say_what_they_are(path, content, says):
    path.write_bytes(content)
    _refused(path, says)


def test_folders_pipes_devices_and_missing_files_are_refused(tmp_path):
    _refused(tmp_path, "folder")
    _refused(tmp_path / "missing.tif", "No such file")
    (tmp_path / "file").write_bytes(b"x")
    _refused(tmp_path / "file" / "below.tif", "Not a directory")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.tif")
        _refused(tmp_path / "pipe.tif", "pipe")
    (tmp_path / "loop.tif").symlink_to(tmp_path / "loop.tif")
    _refused(tmp_path / "loop.tif")
    with pytest.raises(ImageError):
        open_stack("a\0b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")
def test_unreadable_file_is_refused(path):
    tifffile.imwrite(path, _stack(), **GREY)
    path.chmod(0)
    _refused(path, "Permission denied")


@pytest.mark.parametrize(("pages", "back_to"), [(5, 0), (5, 4), (120, 0), (120, 110)])
def test_page_list_that_loops_is_refused(path, pages, back_to):
    tifffile.imwrite(path, _stack(pages, 4), **GREY)
    with tifffile.TiffFile(path) as tiff:
        offsets = [page.offset for page in tiff.pages]
        link = offsets[-1] + 2 + 12 * len(tiff.pages[pages - 1].tags)
    data = bytearray(path.read_bytes())
    assert data[link : link + 4] == bytes(4)
    data[link : link + 4] = struct.pack("<I", offsets[back_to])
    path.write_bytes(data)
    _refused(path, "leads back")


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
def test_absurd_declared_sizes_are_refused_before_anything_is_read(path, size, options):
    tifffile.imwrite(path, _stack(1), **GREY, **options)
    for tag in ("ImageWidth", "ImageLength", *(() if "tile" in options else ("RowsPerStrip",))):
        _patch(path, tag, size)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=re.escape(str(path))):
            open_stack(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_images_of_no_pixels_are_refused(path):
    tifffile.imwrite(path, _stack(1), **GREY)
    _patch(path, "ImageWidth", 0)
    _refused(path, "0 x 32 px")


def test_several_series_are_refused_and_listed(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(_stack(3, 32), **GREY)
        tiff.write(_stack(2, 16), **GREY)
    _refused(path, r"2 series of pages \(3 of 32 x 32 px of 8 bits; 2 of 16 x 16 px of 8 bits\)")


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_pages_of_mixed_types_are_refused(path, dtype):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(_stack(1)[0], **GREY)
        tiff.write(_stack(1)[0].astype(dtype), **GREY)
    _refused(path, "2 series")


def test_reduced_copies_and_masks_among_the_pages_are_not_sections(path):
    for kind, says in ((1, "reduced copy"), (4, "mask")):
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(_stack(1)[0], **GREY, subfiletype=0)
            tiff.write(_stack(1)[0], **GREY, subfiletype=1)
        _patch(path, "NewSubfileType", kind, page=1)
        _refused(path, says)


def test_several_ome_images_are_refused_and_named(path):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name in ("raw", "labels"):
            tiff.write(_stack(2), photometric="minisblack", metadata={"axes": "ZYX", "Name": name})
    _refused(path, "2 OME images .*'raw', 'labels'")


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((32, 32, 3), {"photometric": "rgb"}),
        ((3, 32, 32), {"photometric": "rgb", "planarconfig": "separate"}),
        ((5, 32, 32, 3), {"photometric": "rgb"}),
        ((32, 32, 4), {"photometric": "rgb", "extrasamples": ("unassalpha",)}),
        ((32, 32, 2), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((5, 32, 32, 3), {"imagej": True}),
        ((32, 32, 3), {"ome": True, "photometric": "rgb"}),
        ((2, 16, 16), {"photometric": "minisblack", "volumetric": True, "tile": (2, 16, 16)}),
        ((32, 32), {"photometric": "palette", "colormap": np.zeros((3, 256), "uint16")}),
    ],
)
def test_samples_colours_and_slices_of_a_page_are_never_sections(path, shape, options):
    tifffile.imwrite(path, np.zeros(shape, "uint8"), **options)
    _refused(path, "expected greyscale")


def test_min_is_white_floats_are_refused(path):
    tifffile.imwrite(path, _stack(dtype="float32"), **{**GREY, "photometric": "miniswhite"})
    _refused(path, "min-is-white")


@pytest.mark.parametrize("dtype", ["bool", "complex64", "complex128"])
def test_bits_and_complex_numbers_are_refused(path, dtype):
    tifffile.imwrite(path, np.zeros((3, 32, 32), dtype), **GREY)
    _refused(path, "complex numbers" if dtype.startswith("complex") else "1-bit")


def test_packed_bits_are_refused(path):
    tifffile.imwrite(path, _stack(dtype="uint16"), **GREY)
    for page in range(3):
        _patch(path, "BitsPerSample", 12, page)
    _refused(path, "12-bit")


@pytest.mark.parametrize(("bad", "nan", "infinite"), [(np.nan, 3, 0), (np.inf, 0, 3), (-np.inf, 0, 3)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "byteorder": ">"}])
def test_nan_and_infinite_pixels_are_counted_in_the_section_that_has_them(
    path, bad, nan, infinite, dtype, options
):
    stack_ZYX = _stack(5, dtype=dtype)
    stack_ZYX[2, :3, 7] = bad
    tifffile.imwrite(path, stack_ZYX, **GREY, **options)
    with open_stack(path) as reader:
        np.testing.assert_array_equal(reader.read(1), stack_ZYX[1])
    _refused(path, f"section 2: {nan} NaN and {infinite} infinite pixels")


@pytest.mark.parametrize(
    ("axes", "shape", "options", "says"),
    [
        ("TZYX", (2, 3, 32, 32), {"imagej": True}, "T=2, Z=3"),
        ("CYX", (3, 32, 32), {"imagej": True}, "C=3 channels"),
        ("TZCYX", (2, 3, 4, 32, 32), {"imagej": True}, "T=2, Z=3, C=4"),
        ("TCZYX", (2, 3, 4, 32, 32), {"ome": True}, "T=2, Z=4, C=3"),
        ("CZYX", (2, 3, 32, 32), {"ome": True}, "Z=3, C=2"),
        ("CYX", (3, 32, 32), {"ome": True}, "C=3 channels"),
        ("QYX", (3, 32, 32), {"ome": True}, "modulo"),
        ("TZYX", (2, 3, 32, 32), {}, "T=2, Z=3"),
        ("CYX", (3, 32, 32), {}, "C=3 channels"),
    ],
)
def test_more_axes_than_a_stack_are_refused_by_name(path, axes, shape, options, says):
    tifffile.imwrite(
        path, np.zeros(shape, "uint8"), **options, photometric="minisblack", metadata={"axes": axes}
    )
    _refused(path, says)


def test_missing_codec_says_what_to_install(path, monkeypatch):
    tifffile.imwrite(path, _stack(), **GREY, compression="zlib")
    for page in range(3):
        _patch(path, "Compression", 5, page)
    # As where imagecodecs is not installed: tifffile falls back on a module of its own.
    monkeypatch.setattr(tifffile.tifffile, "imagecodecs", importlib.import_module("tifffile._imagecodecs"))
    monkeypatch.setattr(tifffile.TIFF.DECOMPRESSORS, "_codecs", {})
    _refused(path, "LZW.*pip install imagecodecs")


def test_unknown_compression_is_refused(path):
    tifffile.imwrite(path, _stack(1), **GREY, compression="zlib")
    _patch(path, "Compression", 4711)
    _refused(path, "4711")


def _describe(path, text, sections=3, **options):
    tifffile.imwrite(path, _stack(sections), **GREY, description=text, **options)


@pytest.mark.parametrize(
    "text",
    [
        "ImageJ=1.53t\nimages=30\nslices=30\n",
        "ImageJ=1.53t\nimages=2\nslices=2\n",
        "ImageJ=1.53t\nslices=4\n",
        "ImageJ=1.53t\nimages=3\nslices=4\n",
        "ImageJ=1.53t\nimages=3\nslices=three\n",
        "ImageJ=1.53t\nimages=-3\nslices=-3\n",
        "ImageJ=1.53t\nimages=0\nslices=0\n",
        "XmageJ=1.53t\nimages=30\nslices=30\n",
        '{"shape": [30, 32, 32]}',
        '{"shape": [2, 32, 32]}',
        '{"shape": [3, 32, 31]}',
        '{"shape": [3, 32, 32], "axes": "ZY"}',
        '{"shape": [3, 32, 32}',
        '{"shape": 7}',
        '{"shape": [null]}',
        '{"shape": [32]}',
        '{"shape": []}',
    ],
)
def test_descriptions_that_do_not_fit_the_pages_are_refused(path, text):
    _describe(path, text)
    _refused(path)


def _ome(
    sizes='SizeX="32" SizeY="32" SizeZ="3" SizeC="1" SizeT="1"',
    data='<TiffData IFD="0" PlaneCount="3"/>',
    tail="",
):
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        f'<Image ID="Image:0"><Pixels DimensionOrder="XYZCT" Type="uint8" {sizes}>{data}</Pixels></Image>{tail}</OME>'
    )


def test_hand_made_ome_is_read(path):
    for data in (
        '<TiffData IFD="0" PlaneCount="3"/>',
        "<TiffData/>",
        '<TiffData IFD="0"><UUID FileName="x">urn:uuid:1</UUID></TiffData>'
        '<TiffData IFD="1" FirstZ="1"/><TiffData IFD="2" FirstZ="2"/>',
    ):
        _describe(path, _ome(data=data))
        np.testing.assert_array_equal(_read(path), _stack())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            _ome('SizeX="32" SizeY="32" SizeZ="30" SizeC="1" SizeT="1"'),
            "30 sections, but the file has 3 pages",
        ),
        (_ome('SizeX="32" SizeY="32" SizeZ="2" SizeC="1" SizeT="1"'), "2 sections, but the file has 3 pages"),
        (_ome('SizeX="32" SizeY="32" SizeZ="999999999999" SizeC="1" SizeT="1"'), "3 pages"),
        (_ome('SizeX="31" SizeY="32" SizeZ="3" SizeC="1" SizeT="1"'), "31 x 32 px"),
        (_ome('SizeX="32" SizeY="32" SizeZ="3" SizeC="1"'), "SizeT"),
        (_ome('SizeX="32" SizeY="32" SizeZ="x" SizeC="1" SizeT="1"'), "damaged"),
        (_ome(data=""), "locates 0"),
        (_ome(data='<TiffData IFD="0" PlaneCount="2"/>'), "locates 2"),
        (_ome(data='<TiffData IFD="1" PlaneCount="3"/>'), "page of its own"),
        (_ome(data='<TiffData IFD="0" PlaneCount="999999999999"/>'), "damaged|locates"),
        (_ome(data='<TiffData IFD="0"/>' * 3), "locates"),
        (
            _ome(data='<TiffData IFD="0"><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>'),
            "continues in b.tif",
        ),
        (_ome().replace("</Image>", ""), "damaged"),
        (_ome()[:-40], "breaks off"),
        (_ome(tail="<Image/>" * 2).replace("Pixels", "Voxels"), "0 OME images"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + _ome(), "entities"),
    ],
)
def test_ome_that_does_not_fit_the_pages_is_refused(path, text, says):
    _describe(path, text)
    _refused(path, says)


def test_ome_never_opens_other_files(path, monkeypatch):
    """A description is not to be trusted with the choice of files to read."""
    _describe(
        path, _ome(data='<TiffData IFD="0"><UUID FileName="../../etc/passwd">urn:uuid:2</UUID></TiffData>')
    )
    names = []
    original = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda name, *rest, **more: (names.append(name), original(name, *rest, **more))[1]
    )
    _refused(path, "etc/passwd")
    assert not [name for name in names if "passwd" in str(name)]


def test_one_page_stack_that_lost_its_description_is_not_one_section(path):
    tifffile.imwrite(path, _stack(30), imagej=True, truncate=True, metadata={"axes": "ZYX"})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"ImageJ=", b"ImageX=").replace(b"images=", b"imagos="))
    _refused(path, "declares 1 section, but holds pixels for 30")


def test_one_page_stack_with_too_few_pixels_is_refused(path):
    tifffile.imwrite(path, _stack(30), imagej=True, truncate=True, metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes()[:-1])
    _refused(path, "declares 30 sections")


def test_compressed_one_page_stack_is_refused(path):
    _describe(path, "ImageJ=1.53t\nimages=3\nslices=3\n", 1, compression="zlib")
    _refused(path, "declares 3 sections")


@pytest.mark.parametrize(
    ("tag", "value", "says"),
    [
        ("StripOffsets", 10_000_000, "beyond the end"),
        ("StripOffsets", 0, "lacks the pixels"),
        ("StripByteCounts", 10_000_000, "beyond the end"),
        ("StripByteCounts", 0, "lacks the pixels"),
        ("StripByteCounts", 500, "stores 500 bytes"),
        ("RowsPerStrip", 4, "expected 8"),
        ("ImageWidth", 31, "31 x 32 px of 8 bits take 992"),
    ],
)
def test_tags_that_contradict_each_other_are_refused(path, tag, value, says):
    tifffile.imwrite(path, _stack(), **GREY)
    _patch(path, tag, value, page=1)
    _refused(path, says)


def test_decompression_bomb_is_refused(path):
    tifffile.imwrite(path, np.zeros((100, 100), "uint8"), **GREY, compression="zlib", rowsperstrip=100)
    for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
        _patch(path, tag, 200_000)
    _refused(path, "compressed bytes")


def test_file_that_changes_while_it_is_read_is_refused(path):
    tifffile.imwrite(path, _stack(), **GREY)
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


def test_foreign_kinds_of_tiff_are_refused(path):
    for text, kind in (("Aperio Image", "SVS"), ("<scn></scn>", "SCN")):
        _describe(path, text)
        _refused(path, kind)
