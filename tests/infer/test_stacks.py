"""Stacks in and out: the same pixels, axes and pixel size whatever the file's layout."""

import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_infer.errors import ImageError
from isbi_infer.volumes import PixelSize, StackInfo, open_stack, output_kind, write_stack
from isbi_infer.volumes.pixel_size import in_nm, in_unit, pixels_per

DTYPES = [
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
]
LAYOUTS = {
    "strips": {},
    "many strips": {"rowsperstrip": 5},
    "tiles": {"tile": (16, 32)},
    "zlib": {"compression": "zlib"},
    "zlib strips": {"compression": "zlib", "rowsperstrip": 7},
    "zlib tiles": {"compression": "zlib", "tile": (16, 16)},
    "lzma": {"compression": "lzma"},
    "BigTIFF": {"bigtiff": True},
    "BigTIFF zlib tiles": {"bigtiff": True, "compression": "zlib", "tile": (32, 16)},
}
EM = PixelSize(y_nm=4.0, x_nm=3.7, z_nm=50.0)


def _stack(dtype="uint8", shape=(3, 23, 41)):
    values_ZYX = np.random.default_rng(5).integers(0, 120, shape)
    return (values_ZYX / 7 if np.dtype(dtype).kind == "f" else values_ZYX).astype(dtype)


def _write_plain(path, stack_ZYX, **options):
    tifffile.imwrite(path, stack_ZYX, **{"photometric": "minisblack", "metadata": None, **options})


def _read(path):
    with open_stack(path) as reader:
        return np.stack(list(reader)) if len(reader.shape) == 3 else reader.read(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stack.tif"


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_byte_order_and_layout_gives_the_same_pixels(path, dtype, layout, byteorder):
    stack_ZYX = _stack(dtype)
    _write_plain(path, stack_ZYX, byteorder=byteorder, **LAYOUTS[layout])
    with open_stack(path) as reader:
        assert (reader.sections, reader.height, reader.width) == (3, 23, 41)
        assert (reader.dtype, reader.shape, reader.kind) == (np.dtype(dtype), (3, 23, 41), "tiff")
        for index, expected_YX in enumerate(stack_ZYX):
            section_YX = reader.read(index)
            assert section_YX.dtype == np.dtype(dtype)
            assert section_YX.dtype.isnative
            np.testing.assert_array_equal(section_YX, expected_YX)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32"])
def test_horizontal_predictor_is_undone(path, dtype):
    _write_plain(path, _stack(dtype), compression="zlib", predictor=2, byteorder=">")
    np.testing.assert_array_equal(_read(path), _stack(dtype))


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (40, 1), (5, 1, 1), (4, 1, 30), (4, 30, 1), (2, 3, 4), (3, 5, 3)]
)
@pytest.mark.parametrize("kind", ["imagej", "ome", "tiff"])
def test_thin_images_keep_their_shape(path, shape, kind):
    stack = np.arange(1, 1 + np.prod(shape), dtype="uint8").reshape(shape)
    info = StackInfo(shape=shape, kind=kind)
    write_stack(path, stack.reshape(-1, *shape[-2:]), like=info, dtype="uint8")
    with open_stack(path) as reader:
        assert reader.info == info
    np.testing.assert_array_equal(_read(path), stack)
    np.testing.assert_array_equal(tifffile.imread(path).reshape(shape), stack)


def test_sections_can_be_read_in_any_order_and_again(path):
    stack_ZYX = _stack(shape=(5, 20, 30))
    _write_plain(path, stack_ZYX, compression="zlib")
    with open_stack(path) as reader:
        for index in (4, 0, 2, 2, 3, 1):
            np.testing.assert_array_equal(reader.read(index), stack_ZYX[index])
        for index in (-1, 5):
            with pytest.raises(IndexError):
                reader.read(index)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (16, 16)}])
def test_threads_share_a_reader(path, options):
    stack_ZYX = _stack(shape=(16, 64, 64))
    _write_plain(path, stack_ZYX, **options)
    wrong = []
    with open_stack(path) as reader:

        def check(first):
            for index in (*range(first, 16), *range(first)):
                if not np.array_equal(reader.read(index), stack_ZYX[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=check, args=(first,)) for first in (0, 4, 8, 12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_only_one_section_is_in_memory_at_a_time(path, options):
    _write_plain(path, np.zeros((20, 256, 256), "uint16"), **options)
    tracemalloc.start()
    try:
        with open_stack(path) as reader:
            for _ in reader:
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * 256 * 256 * 2 / 2


def test_closed_reader_still_describes_but_does_not_read(path):
    _write_plain(path, _stack())
    reader = open_stack(path)
    reader.close()
    assert reader.shape == (3, 23, 41)
    with pytest.raises(ValueError, match="closed"):
        reader.read(0)


@pytest.mark.parametrize(("axes", "shape"), [("ZYX", (3, 8, 9)), ("TYX", (3, 8, 9)), ("YX", (8, 9))])
@pytest.mark.parametrize("kind", ["imagej", "ome", "tiff"])
@pytest.mark.parametrize("pixel_size", [None, EM, PixelSize(y_nm=0.125, x_nm=0.3)])
def test_description_goes_in_and_comes_out(path, kind, axes, shape, pixel_size):
    if kind == "tiff" and pixel_size is not None:
        pixel_size = PixelSize(y_nm=pixel_size.y_nm, x_nm=pixel_size.x_nm)  # no room for z
    info = StackInfo(shape=shape, axes=axes, kind=kind, pixel_size=pixel_size)
    stack = _stack("float32", shape)
    assert write_stack(path, stack.reshape(-1, 8, 9), like=info, dtype="float32") == kind
    with open_stack(path) as reader:
        assert reader.info == info
        copy = path.with_name("copy.tif")
        write_stack(copy, reader, like=reader.info, dtype=reader.dtype)
    assert copy.read_bytes() == path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        assert (tiff.series[0].shape, tiff.series[0].axes) == (shape, axes)
        assert (tiff.is_imagej, tiff.is_ome) == (kind == "imagej", kind == "ome")
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
        np.testing.assert_array_equal(tiff.asarray(), stack)


@pytest.mark.parametrize(("letter", "metadata"), [("I", None), ("Q", {})])
def test_unnamed_axis_stays_unnamed_in_plain_files(path, letter, metadata):
    _write_plain(path, _stack(), metadata=metadata)
    with open_stack(path) as reader:
        assert reader.axes == f"{letter}YX"
        write_stack(path.with_name("out.tif"), reader, like=reader.info, dtype="uint8")
    with open_stack(path.with_name("out.tif")) as reader:
        assert reader.axes == f"{letter}YX"


def test_imagej_metadata_is_what_imagej_expects(path):
    info = StackInfo(shape=(3, 8, 9), pixel_size=EM)
    write_stack(path, _stack("float32", (3, 8, 9)), like=info, dtype="float32")
    with tifffile.TiffFile(path) as tiff:
        metadata = tiff.imagej_metadata
        assert {key: metadata[key] for key in ("images", "slices", "unit", "spacing", "min", "max")} == {
            "images": 3,
            "slices": 3,
            "unit": "um",
            "spacing": 0.05,
            "min": 0.0,
            "max": 1.0,
        }
        assert tiff.pages[0].tags["XResolution"].value == (10_000, 37)
        assert tiff.pages[0].tags["YResolution"].value == (250, 1)
        assert len(tiff.pages) == 3
    write_stack(path, _stack("uint8", (3, 8, 9)), like=info, dtype="uint8")
    with tifffile.TiffFile(path) as tiff:
        assert (tiff.imagej_metadata["min"], tiff.imagej_metadata["max"]) == (0, 255)


def test_ome_metadata_is_valid_and_in_micrometres(path):
    write_stack(path, _stack(), like=StackInfo(shape=(3, 23, 41), kind="ome", pixel_size=EM), dtype="uint8")
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata
    for part in ('SizeZ="3"', 'PhysicalSizeX="0.0037"', 'PhysicalSizeXUnit="µm"', 'PhysicalSizeZ="0.05"'):
        assert part in text


def test_same_sections_give_the_same_bytes(path):
    for kind in ("imagej", "ome", "tiff"):
        written = []
        for _ in range(2):
            write_stack(path, _stack(), like=StackInfo(shape=(3, 23, 41), kind=kind), dtype="uint8")
            written.append(path.read_bytes())
        assert written[0] == written[1]


@pytest.mark.parametrize(
    ("unit", "resolution", "y_nm", "x_nm"),
    [
        ("um", (250, 250), 4, 4),
        ("\\u00B5m", (250, 125), 4, 8),
        ("micron", (250, 250), 4, 4),
        ("nm", ((1, 4), (1, 4)), 4, 4),
        ("mm", (250_000, 250_000), 4, 4),
        ("cm", (2_500_000, 2_500_000), 4, 4),
        ("inch", (6_350_000, 6_350_000), 4, 4),
        ("um", (1, 1), 1000, 1000),
    ],
)
def test_imagej_units_are_understood(path, unit, resolution, y_nm, x_nm):
    tifffile.imwrite(
        path,
        _stack(),
        imagej=True,
        resolution=resolution[::-1],
        metadata={"axes": "ZYX", "unit": unit, "spacing": 2},
    )
    with open_stack(path) as reader:
        size = reader.pixel_size
    assert (size.y_nm, size.x_nm) == (y_nm, x_nm)
    assert size.z_nm == in_nm(2, unit)


@pytest.mark.parametrize("unit", ["pixel", "furlong", ""])
def test_imagej_without_a_length_unit_has_no_pixel_size(path, unit):
    tifffile.imwrite(path, _stack(), imagej=True, resolution=(5, 5), metadata={"axes": "ZYX", "unit": unit})
    with open_stack(path) as reader:
        assert reader.pixel_size is None


@pytest.mark.parametrize(
    ("unit", "size", "nm"),
    [("nm", 4, 4), ("Å", 40, 4), ("mm", 4e-6, 4), ("µm", 0.004, 4), (None, 0.004, 4), ("pixel", 4, None)],
)
def test_ome_units_are_understood(path, unit, size, nm):
    metadata = {"axes": "ZYX"}
    for axis in "XYZ":
        metadata[f"PhysicalSize{axis}"] = size
        if unit:
            metadata[f"PhysicalSize{axis}Unit"] = unit
    tifffile.imwrite(path, _stack(), ome=True, photometric="minisblack", metadata=metadata)
    with open_stack(path) as reader:
        assert reader.pixel_size == (None if nm is None else PixelSize(y_nm=nm, x_nm=nm, z_nm=nm))


@pytest.mark.parametrize(
    ("resolution", "unit", "nm"),
    [
        ((2_500_000, 2_500_000), "CENTIMETER", 4),
        ((6_350_000, 6_350_000), "INCH", 4),
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((118, 118), "CENTIMETER", None),
        ((5, 5), "NONE", None),
        ((0, 0), "CENTIMETER", None),
        ((1, 1), "INCH", None),
    ],
)
def test_plain_resolution_is_a_pixel_size_unless_it_is_for_printing(path, resolution, unit, nm):
    _write_plain(path, _stack(), resolution=resolution, resolutionunit=unit)
    with open_stack(path) as reader:
        assert reader.pixel_size == (None if nm is None else PixelSize(y_nm=nm, x_nm=nm))


def test_resolution_of_zero_by_zero_is_no_pixel_size(path):
    _write_plain(path, _stack(), resolution=(7, 7), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            for tag in ("XResolution", "YResolution"):
                page.tags[tag].overwrite((0, 0))
    with open_stack(path) as reader:
        assert reader.pixel_size is None


@given(nm=st.floats(1e-2, 1e6), unit=st.sampled_from(["um", "cm", "nm"]))
@settings(max_examples=settings().max_examples * 3)
def test_any_pixel_size_survives_the_way_into_tags_and_back(nm, unit):
    pixels, units = pixels_per(unit, nm)
    assert 0 < max(pixels, units) < 2**32
    assert units / pixels * in_nm(1, unit) == pytest.approx(nm, rel=1e-6)
    assert in_nm(in_unit(nm, unit), unit) == pytest.approx(nm, rel=1e-15)


def test_resolution_beyond_32_bits_is_left_out(path):
    assert pixels_per("cm", 1e-3) is None
    info = StackInfo(shape=(3, 23, 41), kind="tiff", pixel_size=PixelSize(y_nm=1e-3, x_nm=1e-3))
    write_stack(path, _stack(), like=info, dtype="uint8")
    with open_stack(path) as reader:
        assert reader.pixel_size is None


@pytest.mark.parametrize("text", ["", "nan", "inf", "-1", "0", "1e999999999", "1e-999999999", "4 nm", "1/2"])
def test_what_is_no_length_is_none(text):
    assert in_nm(text, "nm") is None


@pytest.mark.parametrize(
    ("like", "dtype", "shape", "kind"),
    [
        ("imagej", "uint8", (30, 512, 512), "imagej"),
        ("imagej", "float32", (30, 512, 512), "imagej"),
        ("imagej", "float64", (30, 512, 512), "ome"),
        ("imagej", "float16", (30, 512, 512), "tiff"),
        ("imagej", "uint8", (4200, 1024, 1024), "ome"),
        ("imagej", "float32", (1000, 1024, 1024), "imagej"),
        ("imagej", "float32", (1024, 1024, 1024), "ome"),
        ("ome", "float32", (4200, 1024, 1024), "ome"),
        ("tiff", "float32", (4200, 1024, 1024), "tiff"),
    ],
)
def test_what_a_format_cannot_hold_goes_to_the_next(like, dtype, shape, kind):
    assert output_kind(StackInfo(shape=shape, kind=like), dtype) == kind


@pytest.mark.parametrize("kind", ["imagej", "ome", "tiff"])
def test_stacks_too_large_for_classic_tiff_are_bigtiff_with_their_pixel_size(path, kind, monkeypatch):
    monkeypatch.setattr("isbi_infer.volumes.tiff.writer._CLASSIC_BYTES", 2000)
    info = StackInfo(shape=(3, 23, 41), kind=kind, pixel_size=EM)
    written = write_stack(path, _stack(), like=info, dtype="uint8")
    assert written == {"imagej": "ome"}.get(kind, kind)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
    with open_stack(path) as reader:
        assert (reader.kind, reader.pixel_size.x_nm) == (written, 3.7)
    np.testing.assert_array_equal(_read(path), _stack())


def test_imagej_float64_becomes_ome_with_its_pixel_size(path):
    info = StackInfo(shape=(3, 23, 41), pixel_size=EM)
    assert write_stack(path, _stack("float64"), like=info, dtype="float64") == "ome"
    with open_stack(path) as reader:
        assert (reader.info.kind, reader.info.pixel_size) == ("ome", EM)
    np.testing.assert_array_equal(_read(path), _stack("float64"))


def test_output_of_another_shape_takes_over_the_rest(path):
    info = StackInfo(shape=(3, 23, 41), axes="TYX", pixel_size=EM)
    write_stack(path, _stack(shape=(2, 5, 6)), like=info, dtype="uint8", shape=(2, 5, 6))
    with open_stack(path) as reader:
        assert (reader.shape, reader.axes, reader.pixel_size) == ((2, 5, 6), "TYX", EM)
    write_stack(path, _stack(shape=(1, 5, 6)), like=info, dtype="uint8", shape=(5, 6))
    with open_stack(path) as reader:
        assert (reader.shape, reader.axes, reader.pixel_size) == ((5, 6), "YX", EM)


@pytest.mark.parametrize("count", [0, 2, 4])
@pytest.mark.parametrize("kind", ["imagej", "ome", "tiff"])
def test_another_number_of_sections_than_announced_is_an_error(path, count, kind):
    info = StackInfo(shape=(3, 5, 6), kind=kind)
    with pytest.raises(ValueError, match="expected 3 sections"):
        write_stack(path, (np.zeros((5, 6), "uint8") for _ in range(count)), like=info, dtype="uint8")


@pytest.mark.parametrize("section_YX", [np.zeros((5, 7), "uint8"), np.zeros((5, 6), "float32")])
def test_another_section_than_announced_is_an_error(path, section_YX):
    with pytest.raises(ValueError, match="expected uint8"):
        write_stack(path, iter([section_YX]), like=StackInfo(shape=(5, 6)), dtype="uint8")


def test_error_of_the_sections_passes_through_the_writer(path):
    def sections():
        yield np.zeros((5, 6), "uint8")
        raise ImageError("section 1 is bad")

    with pytest.raises(ImageError, match="section 1 is bad"):
        write_stack(path, sections(), like=StackInfo(shape=(3, 5, 6)), dtype="uint8")


def test_sections_are_drawn_one_by_one(path):
    alive = []

    def sections():
        for _ in range(10):
            alive.append(path.stat().st_size)
            yield np.zeros((300, 300), "uint8")

    write_stack(path, sections(), like=StackInfo(shape=(10, 300, 300)), dtype="uint8")
    assert alive[-1] > 8 * 300 * 300  # the first ones are in the file before the last one is asked for


def test_min_is_white_is_inverted_and_said(path):
    for dtype in ("uint8", "uint16", "int16"):
        stack_ZYX = _stack(dtype)
        _write_plain(path, np.invert(stack_ZYX), photometric="miniswhite")
        with open_stack(path) as reader:
            assert any("min-is-white" in note for note in reader.notes)
        np.testing.assert_array_equal(_read(path), stack_ZYX)


def test_ordinary_files_need_no_notes(path):
    _write_plain(path, _stack())
    with open_stack(path) as reader:
        assert reader.notes == ()


def test_ignored_orientation_and_reduced_copies_are_said(path):
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "minisblack", "metadata": None}
        tiff.write(_stack(shape=(32, 32)), subifds=1, extratags=[(274, 3, 1, 6, False)], **options)
        tiff.write(_stack(shape=(16, 16)), subfiletype=1, **options)
    with open_stack(path) as reader:
        assert reader.shape == (32, 32)
        assert any("orientation" in note for note in reader.notes)
        assert any("reduced copies" in note for note in reader.notes)


def test_one_page_imagej_stacks_as_beyond_4_gb_are_read_whole(path):
    tifffile.imwrite(
        path, _stack("uint16"), imagej=True, truncate=True, byteorder=">", metadata={"axes": "ZYX"}
    )
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    np.testing.assert_array_equal(_read(path), _stack("uint16"))


def test_imagej_stack_that_names_no_axis_is_read_whole(path):
    _write_plain(path, _stack(), description="ImageJ=1.53t\nimages=3\nmin=0.0\nmax=255.0\n")
    with open_stack(path) as reader:
        assert (reader.axes, reader.kind) == ("IYX", "imagej")
    np.testing.assert_array_equal(_read(path), _stack())


def test_ome_sections_come_in_the_order_that_the_xml_gives(path):
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="41" SizeY="23" '
        'SizeZ="3" SizeC="1" SizeT="1"><TiffData IFD="0" FirstZ="2"/><TiffData IFD="1" FirstZ="0"/>'
        '<TiffData IFD="2" FirstZ="1"/></Pixels></Image></OME>'
    )
    _write_plain(path, _stack(), description=xml)
    np.testing.assert_array_equal(_read(path), _stack()[[1, 2, 0]])
    np.testing.assert_array_equal(_read(path), tifffile.imread(path))


def test_files_of_other_writers_agree_with_tifffile(path):
    image = pytest.importorskip("PIL.Image")
    stack_ZYX = _stack()
    first, *others = (image.fromarray(section_YX) for section_YX in stack_ZYX)
    first.save(path, save_all=True, append_images=others)
    np.testing.assert_array_equal(_read(path), stack_ZYX)


def test_no_log_record_of_tifffile_reaches_standard_error(path):
    tifffile.imwrite(path, _stack(), imagej=True, metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes()[:-50])
    code = (
        "import logging, sys\n"
        "from isbi_infer.errors import ImageError\n"
        "from isbi_infer.volumes import open_stack\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        open_stack(sys.argv[1])\n"
        "    except ImageError:\n"
        "        print('refused')\n"
        "assert not logging.getLogger('tifffile').filters and not logging.getLogger('tifffile').handlers\n"
        "logging.getLogger('tifffile').error('of somebody else')\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout == "refused\n" * 2
    assert run.stderr == "of somebody else\n"
