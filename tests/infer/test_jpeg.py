"""A JPEG image, alone or in a TIFF, is read whole or is an error, as far as its data tell."""

import io

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from PIL import Image

from isbi_infer.errors import ImageError
from isbi_infer.volumes import open_source
from isbi_infer.volumes.jpeg import check_jpeg

END = b"\xff\xd9"
SHAPE = (96, 120)


@pytest.fixture(scope="module")
def image_YX():
    return synthetic_stack(1, *SHAPE)[0][0]


def encoded(image_YX, **options):
    file = io.BytesIO()
    Image.fromarray(image_YX).save(file, "JPEG", **options)
    return file.getvalue()


def stored(folder, data, form):
    """Write JPEG data as an image of a folder, or as the only strip of a TIFF; return what to open."""
    if form == "tif":
        strip = {"compression": "jpeg", "rowsperstrip": SHAPE[0], "photometric": "minisblack"}
        tifffile.imwrite(folder / "s.tif", iter([data]), shape=SHAPE, dtype="uint8", **strip)
        return folder / "s.tif"
    (folder / "s.jpg").write_bytes(data)
    return folder


def read(path):
    with open_source(path) as source:
        return source.read(0)


@pytest.mark.parametrize("form", ["jpg", "tif"])
@pytest.mark.parametrize("quality", [5, 50, 75, 95, 100])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimize": True},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"restart_marker_blocks": 7, "optimize": True},
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1, "progressive": True},
    ],
)
def test_whole_data_are_read_however_they_were_encoded(tmp_path, image_YX, form, quality, options):
    canvas_YX = image_YX.copy()
    canvas_YX[:, 40:] = 0
    flat_YX = np.full(SHAPE, 200, np.uint8)
    for pixels_YX in (image_YX, canvas_YX, flat_YX):
        data = encoded(pixels_YX, quality=quality, **options)
        expected_YX = np.asarray(Image.open(io.BytesIO(data)))
        for more in (b"", b"\0", b"what cameras put behind"):
            np.testing.assert_array_equal(read(stored(tmp_path, data + more, form)), expected_YX)


def test_what_libtiff_and_tifffile_write_in_strips_and_tiles_with_tables_in_common_is_read(
    tmp_path, image_YX
):
    Image.fromarray(image_YX).save(tmp_path / "libtiff.tif", compression="jpeg", quality=90)
    tifffile.imwrite(tmp_path / "tiles.tif", image_YX, compression="jpeg", tile=(32, 32))
    tifffile.imwrite(tmp_path / "strips.tif", image_YX, compression="jpeg", rowsperstrip=16)
    for path in tmp_path.iterdir():
        assert np.abs(read(path).astype(int) - image_YX).mean() < 10


def holed(data, size=256):
    middle = len(data) * 2 // 3
    return data[:middle] + bytes(size) + data[middle + size :]


@pytest.mark.parametrize(
    ("form", "options", "damage", "says"),
    [
        ("jpg", {}, lambda data: data[:-2], "have no end marker"),
        ("tif", {}, lambda data: data[:-2], "have no end marker"),
        ("tif", {}, lambda data: data[: len(data) // 2], "have no end marker"),
        ("tif", {}, lambda data: data[: len(data) // 2] + bytes(len(data) // 2), "no end marker|zero bytes in a row"),
        ("tif", {"progressive": True}, lambda data: data[: len(data) // 2], "have no end marker"),
        ("jpg", {}, holed, "hold 256 zero bytes in a row"),
        ("tif", {}, holed, "hold 256 zero bytes in a row"),
        ("jpg", {"optimize": True}, holed, "truncated|zero bytes in a row"),
        ("jpg", {}, lambda data: data[: len(data) // 2] + END, "truncated"),
        ("jpg", {"optimize": True}, lambda data: data[: len(data) * 95 // 100] + END, "truncated"),
        ("jpg", {}, lambda data: data[:-2] + data[-40:-2] + END, "go on after its last pixel"),
        ("jpg", {"restart_marker_rows": 1}, lambda data: data[: len(data) // 2] + END, r"\d+ of 11 restart markers"),
        ("tif", {"restart_marker_rows": 1}, lambda data: data[: len(data) // 2] + END, r"\d+ of 11 restart markers"),
        ("tif", {"restart_marker_rows": 1}, lambda data: data.replace(b"\xff\xd3", b""), "10 of 11 restart markers"),
    ],
)  # fmt: skip
def test_data_that_are_not_whole_are_an_error_and_never_filled_up(
    tmp_path, image_YX, form, options, damage, says
):
    data = damage(encoded(image_YX, quality=90, **options))
    with pytest.raises(ImageError, match=rf"s\.{form}: .*({says}).*; the file is truncated or damaged"):
        read(stored(tmp_path, data, form))


@pytest.mark.parametrize("padding", [b"\0" * 100, b"\xff" * 100])
def test_what_pads_the_data_before_their_end_does_not_matter(tmp_path, image_YX, padding):
    data = encoded(image_YX)
    padded = data.removesuffix(END) + padding + END
    np.testing.assert_array_equal(
        read(stored(tmp_path, padded, "jpg")), np.asarray(Image.open(io.BytesIO(data)))
    )


@pytest.mark.parametrize("follows", [b"", b"\0", b"\xd0"])
def test_a_long_run_of_set_bits_is_looked_at_once(image_YX, follows):
    """Erased flash reads as 255; looked at from each of its bytes a few megabytes would take days."""
    with pytest.raises(ImageError, match="no end marker"):
        check_jpeg(encoded(image_YX).removesuffix(END) + b"\xff" * 4_000_000 + follows)


def test_zeros_of_a_flat_area_are_no_hole():
    flat_YX = np.zeros((2048, 2048), np.uint8)
    data = encoded(flat_YX, optimize=True)
    assert bytes(1024) in data
    assert check_jpeg(data) is not None


def test_tables_that_a_tiff_keeps_apart_count(image_YX):
    data = encoded(image_YX, quality=90)
    start = data.index(b"\xff\xc4")  # of the tables of codes, up to the scan
    stop = data.index(b"\xff\xda")
    tables, alone = b"\xff\xd8" + data[start:stop] + END, holed(data[:start] + data[stop:])
    check_jpeg(alone)  # by itself nothing says what zeros mean
    with pytest.raises(ImageError, match="zero bytes in a row"):
        check_jpeg(alone, tables)
