"""A folder of section images is a stack: in natural order, of one size and type, or an error that names the file."""

import os
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from isbi_infer.errors import ImageError
from isbi_infer.volumes import PixelSize
from isbi_infer.volumes.images import natural_key, open_images

FORMATS = ["tif", "png", "jpg"]


def _stack(dtype="uint8", sections=3, height=23, width=41):
    """Return slowly rising sections, which JPEG keeps nearly as they are."""
    z, y, x = np.ogrid[:sections, :height, :width]
    values_ZYX = 20 * z + 2 * y + x
    return (values_ZYX * 200 if dtype == "uint16" else values_ZYX).astype(dtype)


def _write(path, image_YX, **options):
    if path.suffix.lower() in (".tif", ".tiff"):
        tifffile.imwrite(path, image_YX, **{"photometric": "minisblack", "metadata": None, **options})
    else:
        Image.fromarray(image_YX).save(path, **options)


def _fill(folder, stack_ZYX, suffix="png", **options):
    for index, image_YX in enumerate(stack_ZYX):
        _write(folder / f"s{index}.{suffix}", image_YX, **options)
    return folder


def _read(folder):
    with open_images(folder) as source:
        return np.stack([source.read(z) for z in range(source.info.sections)])


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, bits=8, colour=0, rows=b"", more=b"", interlaced=False, gap=b""):
    """Make a PNG file of these rows, each with its filter byte; `gap` stands in the middle of them."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    data = zlib.compress(rows)
    half = len(data) // 2
    parts = _chunk(b"IDAT", data[:half]) + gap + _chunk(b"IDAT", data[half:])
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + more + parts + _chunk(b"IEND", b"")


def _rows(image_YX):
    """Return the rows of an image as PNG has them, without filters."""
    rows_YX = image_YX.astype(image_YX.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row_X.tobytes() for row_X in rows_YX if row_X.size)


def _interlaced(image_YX):
    """Return the rows of the seven passes of Adam7 (PNG specification, 8.2)."""
    passes = (0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)
    return b"".join(_rows(image_YX[y::step_y, x::step_x]) for y, step_y, x, step_x in passes)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("tif", "uint8"), ("tiff", "uint16"), ("TIF", "float32"), ("png", "uint8"), ("PNG", "uint16")],
)
def test_pixels_come_as_they_were_stored(tmp_path, suffix, dtype):
    stack_ZYX = _stack(dtype)
    with open_images(_fill(tmp_path, stack_ZYX, suffix)) as source:
        assert source.name == str(tmp_path)
        assert (source.info.shape, source.info.axes, source.dtype) == (
            stack_ZYX.shape,
            "ZYX",
            np.dtype(dtype),
        )
        for z, section_YX in enumerate(stack_ZYX):
            read_YX = source.read(z)
            np.testing.assert_array_equal(read_YX, section_YX)
            assert read_YX.dtype == np.dtype(dtype)
            assert read_YX.dtype.isnative
            assert read_YX.flags.writeable
        assert source.notes == ()


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_jpeg_images_are_read_and_said_to_have_lost_detail(tmp_path, suffix):
    stack_ZYX = _stack()
    _fill(tmp_path, stack_ZYX, suffix, quality=95)
    with open_images(tmp_path) as source:
        assert source.dtype == np.uint8
        assert np.abs(source.read(1).astype(int) - stack_ZYX[1]).max() <= 3
        assert [note for note in source.notes if "JPEG compression loses detail" in note]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_windows_are_cut_out_of_the_section(tmp_path, suffix, compression):
    _fill(tmp_path, _stack(), suffix, **({"compression": compression} if suffix == "tif" else {}))
    with open_images(tmp_path) as source:
        window = slice(3, 9), slice(5, 40)
        part_YX = source.read(2, window)
        np.testing.assert_array_equal(part_YX, source.read(2)[window])
        assert part_YX.base is None or part_YX.base.nbytes < source.read(2).nbytes


@given(st.lists(st.integers(0, 10**20), min_size=2, max_size=6), st.sampled_from(["s", "S_", "a-b."]))
def test_numbers_in_names_count_by_their_value(numbers, prefix):
    names = [f"{prefix}{number}.tif" for number in numbers]
    assert sorted(names, key=natural_key) == [f"{prefix}{number}.tif" for number in sorted(numbers)]


@given(st.lists(st.text("aA0129._-é²", max_size=8), unique=True))
def test_the_order_of_names_is_total(names):
    once = sorted(names, key=natural_key)
    names.reverse()
    assert sorted(names, key=natural_key) == once
    assert len({natural_key(name) for name in names}) == len(names)


def test_sections_are_in_the_natural_order_of_the_names(tmp_path):
    for value in (10, 2, 1, 100):
        _write(tmp_path / f"section {value}.png", np.full((4, 5), value, np.uint8))
    assert _read(tmp_path)[:, 0, 0].tolist() == [1, 2, 10, 100]


def test_one_image_is_a_stack_of_one_section(tmp_path):
    with open_images(_fill(tmp_path, _stack(sections=1))) as source:
        assert source.info.shape == (1, 23, 41)
        assert source.read(0).shape == (23, 41)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (_stack(height=24)[0], r"41 x 24 px, uint8; expected 41 x 23 px, uint8, as in s0\."),
        (_stack(width=40)[0], r"40 x 23 px, uint8; expected 41 x 23 px, uint8, as in s0\."),
        (_stack("uint16")[0], r"41 x 23 px, uint16; expected 41 x 23 px, uint8, as in s0\."),
    ],
)
def test_the_first_image_that_differs_is_named(tmp_path, suffix, odd, says):
    if suffix == "jpg" and odd.dtype == np.uint16:
        pytest.skip("JPEG images have 8 bits")
    _fill(tmp_path, _stack(sections=12), suffix)
    for name in (f"s3.{suffix}", f"s10.{suffix}"):
        _write(tmp_path / name, odd)
    with pytest.raises(ImageError, match=rf"s3\.{suffix}: {says}") as raised:
        open_images(tmp_path)
    assert "\n" not in str(raised.value)


def test_images_of_several_formats_are_refused(tmp_path):
    _fill(tmp_path, _stack(), "png")
    _fill(tmp_path, _stack(sections=2), "tif")
    with pytest.raises(ImageError, match="holds 3 PNG and 2 TIFF images; expected one format"):
        open_images(tmp_path)


def test_the_format_is_told_by_the_content(tmp_path):
    stack_ZYX = _stack()
    _fill(tmp_path, stack_ZYX, "png")
    for path in tmp_path.iterdir():
        path.rename(path.with_suffix(".tif"))
    np.testing.assert_array_equal(_read(tmp_path), stack_ZYX)


def test_what_is_no_image_is_left_out_and_named(tmp_path):
    stack_ZYX = _stack()
    _fill(tmp_path, stack_ZYX)
    for name in (".DS_Store", "._s0.png", ".s9.png.lock", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    with open_images(tmp_path) as source:
        assert source.info.sections == 3
        assert source.notes == ("left out, since not images: folder.png, notes.txt, Thumbs.db (3 in all)",)


def test_of_many_files_left_out_some_are_named(tmp_path):
    _fill(tmp_path, _stack())
    for index in range(50):
        (tmp_path / f"{index}.txt").touch()
    with open_images(tmp_path) as source:
        (note,) = source.notes
    assert note.endswith("3.txt, 4.txt, ... (50 in all)")


@pytest.mark.parametrize("make", ["empty", "other files", "missing", "file"])
def test_a_folder_without_images_is_an_error(tmp_path, make):
    folder, says = tmp_path / "in", "holds no TIFF, PNG or JPEG image; expected one image a section"
    if make in ("empty", "other files"):
        folder.mkdir()
    if make == "other files":
        (folder / "notes.txt").touch()
    elif make == "missing":
        says = "cannot be opened"
    elif make == "file":
        folder.touch()
        says = r"cannot be opened \(Not a directory\)"
    with pytest.raises(ImageError, match=f"in: {says}"):
        open_images(folder)


def test_a_zarr_folder_is_called_one(tmp_path):
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    with pytest.raises(ImageError, match="this is a Zarr array; expected a TIFF; convert it"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("s1.png", b"", "is empty"),
        ("s1.png", b"ZISRAWFILE" + bytes(99), "this is a Zeiss CZI file"),
        ("s1.tif", b"\x89HDF\r\n\x1a\n", "this is an HDF5 file"),
        ("s1.png", b"something else", "begins with b'somethin'; expected a TIFF, PNG or JPEG image"),
        (
            "s1.png",
            _png(41, 23, colour=2),
            "is RGB; expected greyscale; convert it to 8- or 16-bit greyscale",
        ),
        ("s1.png", _png(41, 23, colour=3), "is palette colours"),
        ("s1.png", _png(41, 23, colour=4), "is greyscale with transparency"),
        ("s1.png", _png(41, 23, bits=1), "holds 1-bit pixels; expected 8 or 16 bits"),
        ("s1.png", _png(41, 23, bits=4), "holds 4-bit pixels"),
        ("s1.png", _png(2**30, 2**30), "declares 1073741824 x 1073741824 px; expected between"),
        ("s1.png", _png(2**17, 2**17), r"declares 131072 x 131072 px in \d+ compressed bytes"),
        ("s1.png", _png(0, 23), "declares 0 x 23 px|not readable"),
    ],
)
def test_an_image_that_cannot_be_a_section_is_named(tmp_path, name, content, says):
    stack_ZYX = _stack()
    _fill(tmp_path, stack_ZYX, name.split(".")[1])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=f"{name}: ({says})") as raised:
        open_images(tmp_path)
    assert str(raised.value).count(f"{tmp_path / name}: ") == 1


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_colour_images_are_refused(tmp_path, suffix):
    image_YXS = np.zeros((23, 41, 3), np.uint8)
    _write(tmp_path / f"s0.{suffix}", image_YXS, **({"photometric": "rgb"} if suffix == "tif" else {}))
    with pytest.raises(ImageError, match=rf"s0\.{suffix}: .*expected greyscale"):
        open_images(tmp_path)


def test_a_tiff_of_several_pages_is_refused(tmp_path):
    _fill(tmp_path, _stack(), "tif")
    _write(tmp_path / "s2.tif", _stack())
    with pytest.raises(ImageError, match=r"s2\.tif: holds 3 sections; expected one image a file"):
        open_images(tmp_path)


def test_an_animation_is_refused(tmp_path):
    frames = [Image.fromarray(image_YX) for image_YX in _stack()]
    frames[0].save(tmp_path / "s0.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"s0\.png: is an animation"):
        open_images(tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_truncated_image_is_an_error_that_names_it(tmp_path, suffix):
    noise_ZYX = np.random.default_rng(2).integers(0, 256, (2, 64, 64)).astype(np.uint8)
    _fill(tmp_path, noise_ZYX, suffix)
    path = tmp_path / f"s1.{suffix}"
    whole = path.read_bytes()
    for length in (30, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=rf"s1\.{suffix}: "):
            _read(tmp_path)


@pytest.mark.parametrize("place", range(1, 20))
def test_a_flipped_byte_of_a_png_is_an_error_or_changes_nothing(tmp_path, place):
    noise_ZYX = np.random.default_rng(2).integers(0, 256, (1, 30, 30)).astype(np.uint8)
    _fill(tmp_path, noise_ZYX)
    path = tmp_path / "s0.png"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) * place // 20] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(ImageError, match=r"s0\.png: "):
        _read(tmp_path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 3), (4, 4), (23, 41)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_of_fewer_rows_than_it_declares_is_an_error(tmp_path, shape, dtype, interlaced):
    image_YX = np.arange(1, shape[0] * shape[1] + 1, dtype=dtype).reshape(shape)
    rows = _interlaced(image_YX) if interlaced else _rows(image_YX)
    path, bits = tmp_path / "s0.png", 8 * image_YX.itemsize
    for stored in (rows, rows + b"more"):
        path.write_bytes(_png(shape[1], shape[0], bits, rows=stored, interlaced=interlaced))
        np.testing.assert_array_equal(_read(tmp_path)[0], image_YX)
    for stored in (rows[:-1], rows[: len(rows) // 2], b""):
        path.write_bytes(_png(shape[1], shape[0], bits, rows=stored, interlaced=interlaced))
        says = rf"s0\.png: holds {len(stored)} of {len(rows)} bytes of its rows; the file is truncated"
        with pytest.raises(ImageError, match=says):
            _read(tmp_path)


def test_rows_of_a_png_that_decoders_do_not_reach_are_missing(tmp_path):
    image_YX = _stack()[0]
    (tmp_path / "s0.png").write_bytes(_png(41, 23, rows=_rows(image_YX), gap=_chunk(b"tEXt", b"a\0b")))
    with pytest.raises(ImageError, match=rf"s0\.png: holds \d+ of {23 * 42} bytes of its rows"):
        _read(tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("target", ["annex/s1", "s1"])
def test_a_link_to_what_is_not_there_is_named_and_no_section_is_lost(tmp_path, suffix, target):
    _fill(tmp_path, _stack(), suffix)
    path = tmp_path / f"s1.{suffix}"
    path.unlink()
    path.symlink_to(f"{target}.{suffix}")
    with pytest.raises(
        ImageError, match=rf"s1\.{suffix}: is a link to what is not there; fetch it"
    ) as raised:
        open_images(tmp_path)
    assert raised.value.exit_code == 4
    if target != "s1":
        (tmp_path / "annex").mkdir()
        _write(tmp_path / "annex" / path.name, _stack()[1])
        assert len(_read(tmp_path)) == 3


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_that_the_system_does_not_give_is_not_called_damaged(tmp_path, suffix):
    _fill(tmp_path, _stack(), suffix)
    with open_images(tmp_path) as source:
        (tmp_path / f"s1.{suffix}").unlink()
        with pytest.raises(ImageError, match=rf"s1\.{suffix}: cannot be read \(No such file") as raised:
            source.read(1)
    assert "damaged" not in str(raised.value)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("change", ["longer", "touched", "replaced", "gone"])
def test_an_image_that_changes_during_the_run_is_an_error(tmp_path, suffix, change):
    _fill(tmp_path, _stack(), suffix)
    path = tmp_path / f"s1.{suffix}"
    with open_images(tmp_path) as source:
        source.read(1)
        if change == "longer":
            with path.open("ab") as file:
                file.write(b"x")
        elif change == "touched":
            os.utime(path, ns=(1, 1))
        elif change == "replaced":
            _write(tmp_path / f"new.{suffix}", _stack(height=50)[0])
            os.replace(tmp_path / f"new.{suffix}", path)
        else:
            path.unlink()
        with pytest.raises(ImageError, match=rf"s1\.{suffix}: .*(has changed|No such file)"):
            source.read(1)
        source.read(0)


def test_the_fingerprint_follows_names_sizes_and_times(tmp_path):
    def fingerprint():
        with open_images(tmp_path) as source:
            return source.fingerprint()

    _fill(tmp_path, _stack())
    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    os.utime(tmp_path / "s1.png", ns=(5, 5))
    seen.append(fingerprint())
    (tmp_path / "s1.png").rename(tmp_path / "s7.png")
    seen.append(fingerprint())
    _write(tmp_path / "s8.png", _stack()[0])
    seen.append(fingerprint())
    (tmp_path / "left out.txt").touch()
    assert fingerprint() == seen[-1]
    assert len(set(seen)) == 4


def test_the_pixel_size_of_all_tiff_images_is_taken(tmp_path):
    for index, image_YX in enumerate(_stack()):
        tifffile.imwrite(
            tmp_path / f"{index}.tif", image_YX, imagej=True, resolution=(250, 250), metadata={"unit": "um"}
        )
    with open_images(tmp_path) as source:
        assert source.info.pixel_size == PixelSize(y_nm=4.0, x_nm=4.0)
        assert source.info.kind == "imagej"
        assert source.notes == ()


def test_different_pixel_sizes_are_said_and_none_is_taken(tmp_path):
    for index, image_YX in enumerate(_stack()):
        options = {"metadata": {"unit": "um"}, "resolution": (250, 250)} if index < 2 else {}
        tifffile.imwrite(tmp_path / f"{index}.tif", image_YX, imagej=True, **options)
    with open_images(tmp_path) as source:
        assert source.info.pixel_size is None
        assert source.notes == (
            "the images state different pixel sizes (4 x 4 nm in 0.tif and none in 2.tif); none was taken",
        )


def _nodata(text):
    return {"extratags": [(42113, "s", 0, text, True)]} if text else {}


@pytest.mark.parametrize(("texts", "expected"), [(("-9999", "-9999.0"), -9999.0), (("nan", "nan"), np.nan)])
def test_the_no_data_value_of_all_tiff_images_is_taken(tmp_path, texts, expected):
    for index, text in enumerate(texts):
        _write(tmp_path / f"{index}.tif", _stack("float32")[index], **_nodata(text))
    with open_images(tmp_path) as source:
        np.testing.assert_equal(source.nodata, expected)
        assert source.notes == ()


@pytest.mark.parametrize(
    ("first", "other", "says"),
    [
        ("-9999", "-32768", r"is -32768\.0; expected -9999\.0"),
        ("-9999", None, r"is none; expected -9999\.0"),
        (None, "-9999", r"is -9999\.0; expected none"),
        ("-9999", "nan", r"is nan; expected -9999\.0"),
        ("nan", "-9999", r"is -9999\.0; expected nan"),
    ],
)
def test_the_first_image_of_another_no_data_value_is_named(tmp_path, first, other, says):
    for index, text in enumerate((first, first, other)):
        _write(tmp_path / f"s{index}.tif", _stack("float32")[index], **_nodata(text))
    with pytest.raises(
        ImageError, match=rf"s2\.tif: its no-data value {says}, as in s0\.tif; .*gdal_edit"
    ) as raised:
        open_images(tmp_path)
    assert raised.value.exit_code == 4


@pytest.mark.parametrize(("text", "dtype"), [("nan", "float32"), ("-32768", "int32"), ("-9999", "float32")])
def test_pixels_without_data_are_in_a_folder_what_they_are_in_its_images(tmp_path, segmenter, text, dtype):
    image_ZYX = synthetic_stack(2, 160, 160)[0].astype(dtype)
    image_ZYX[:, :, :60] = float(text)  # a margin, and dots that only their value tells from tissue
    image_ZYX[:, np.arange(3, 160, 9), 100] = float(text)
    folder = tmp_path / "in"
    folder.mkdir()
    for index, image_YX in enumerate(image_ZYX):
        _write(folder / f"{index}.tif", image_YX, **_nodata(text))
    summary = segmenter.segment_file(folder, tmp_path / "all.tif")
    alone = []
    for index in range(2):
        segmenter.segment_file(folder / f"{index}.tif", tmp_path / "one.tif")
        alone.append(tifffile.imread(tmp_path / "one.tif"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "all.tif"), alone)
    assert "38 % of section 1 is canvas" in summary.notes


def test_notes_on_single_images_tell_how_many(tmp_path):
    stack_ZYX = _stack()
    _fill(tmp_path, stack_ZYX, "tif")
    _write(tmp_path / "s1.tif", ~stack_ZYX[1], photometric="miniswhite")
    with open_images(tmp_path) as source:
        assert source.notes == ("min-is-white pixels were inverted (1 of 3 images, first s1.tif)",)
    np.testing.assert_array_equal(_read(tmp_path), stack_ZYX)


@pytest.mark.parametrize("suffix", FORMATS)
def test_orientation_is_ignored_and_said(tmp_path, suffix):
    stack_ZYX = _stack()
    exif = Image.Exif()
    exif[0x0112] = 6
    _fill(
        tmp_path,
        stack_ZYX,
        suffix,
        **({"extratags": [(274, 3, 1, 6, True)]} if suffix == "tif" else {"exif": exif}),
    )
    with open_images(tmp_path) as source:
        assert "the orientation tag (6) was ignored: pixels are as stored" in source.notes
        assert source.read(0).shape == (23, 41)


def test_damaged_exif_is_no_matter(tmp_path):
    Image.fromarray(_stack()[0]).save(tmp_path / "s0.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with open_images(tmp_path) as source:
        assert source.read(0).shape == (23, 41)


def test_sections_larger_than_pillow_allows_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    stack_ZYX = _stack()
    for suffix in ("png", "jpg"):
        folder = tmp_path / suffix
        folder.mkdir()
        assert _read(_fill(folder, stack_ZYX, suffix)).shape == stack_ZYX.shape


@pytest.mark.parametrize("suffix", FORMATS)
def test_threads_read_what_one_reads(tmp_path, suffix):
    stack_ZYX = _stack(sections=6)
    _fill(tmp_path, stack_ZYX, suffix)
    alone_ZYX = _read(tmp_path)
    with open_images(tmp_path) as source:
        wrong = []

        def read():
            for z in range(6):
                if not np.array_equal(source.read(z), alone_ZYX[z]):
                    wrong.append(z)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_after_closing_the_description_stays(tmp_path):
    source = open_images(_fill(tmp_path, _stack()))
    with pytest.raises(IndexError):
        source.read(3)
    source.close()
    assert source.info.shape == (3, 23, 41)
    with pytest.raises(ValueError, match="closed"):
        source.read(0)


def test_tiff_pixels_have_to_be_finite(tmp_path):
    stack_ZYX = _stack("float32")
    stack_ZYX[1, 2, 3] = np.nan
    _fill(tmp_path, stack_ZYX, "tif")
    with open_images(tmp_path) as source:
        source.read(0)
        with pytest.raises(ImageError, match=r"s1\.tif: .*1 NaN"):
            source.read(1)


@pytest.mark.parametrize("suffix", FORMATS)
def test_pillow_is_asked_for_where_it_is_needed(tmp_path, suffix):
    _fill(tmp_path, _stack(), suffix)
    program = (
        "import sys\n"
        "sys.modules['PIL'] = None\n"
        "from isbi_infer.errors import DependencyError\n"
        "from isbi_infer.volumes.images import open_images\n"
        "try:\n"
        "    print(open_images(sys.argv[1]).info.sections)\n"
        "except DependencyError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )
    if suffix == "tif":
        assert run.stdout == "3\n"
    else:
        assert run.stdout.startswith("PNG and JPEG images need Pillow")
        assert "run: pip install pillow" in run.stdout
