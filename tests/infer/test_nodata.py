"""The value that stands for "no data" in a TIFF is one of its pixels as they are read, and one for all pages."""

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import ImageError
from isbi_infer.volumes import open_source
from isbi_infer.volumes.tiff.directory import GDAL_NODATA

IMAGE_YX = np.arange(5, 45, dtype=np.uint8).reshape(5, 8)


def tag(text):
    return {"extratags": [(GDAL_NODATA, "s", 0, text, True)]} if text else {}


def write_pages(path, texts, dtype="uint8"):
    with tifffile.TiffWriter(path) as file:
        for text in texts:
            image_YX = IMAGE_YX.astype(dtype)
            file.write(image_YX, photometric="minisblack", metadata=None, contiguous=False, **tag(text))


def nodata_of(path, **options):
    with open_source(path, **options) as source:
        return source.nodata


@pytest.mark.parametrize(
    ("dtype", "value"), [("uint8", 0), ("uint8", 255), ("uint16", 65535), ("int16", -32768), ("int16", 3)]
)
def test_it_is_inverted_with_min_is_white_pixels(tmp_path, dtype, value):
    image_YX = IMAGE_YX.astype(dtype)
    image_YX[2:, 3:] = value
    for name, stored_YX in (("minisblack", image_YX), ("miniswhite", np.invert(image_YX))):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, stored_YX, photometric=name, metadata=None, **tag(str(stored_YX[2, 3])))
        with open_source(path) as source:
            np.testing.assert_array_equal(source.read(0), image_YX)
            assert source.nodata == value


def test_what_is_no_pixel_of_a_min_is_white_image_stays_none(tmp_path):
    for text in ("-9999", "nan", "1e10"):
        tifffile.imwrite(tmp_path / "in.tif", IMAGE_YX, photometric="miniswhite", metadata=None, **tag(text))
        assert nodata_of(tmp_path / "in.tif") not in range(256)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (("7", "7", "8"), r"page 2 is 8\.0; expected 7\.0, as on page 0"),
        ((None, "7", "7"), r"page 1 is 7\.0; expected none, as on page 0"),
        (("nan", "7", "nan"), r"page 1 is 7\.0; expected nan"),
        (("7", "unknown", "7"), "page 1 is None; expected 7"),
    ],
)
def test_pages_that_differ_in_it_are_refused(tmp_path, texts, says):
    write_pages(tmp_path / "in.tif", texts, "float32")
    with pytest.raises(
        ImageError, match=rf"in\.tif: the no-data value of {says}.*; all pages must name the same"
    ):
        open_source(tmp_path / "in.tif")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("7", None, None), 7),  # as tifffile writes a stack with such a tag
        (("7", "7.0", " 7 "), 7),
        (("nan", "NaN", None), np.nan),
        ((None, None, "unknown"), None),
    ],
)
def test_pages_that_agree_or_leave_it_to_the_first_one_are_read(tmp_path, texts, expected):
    write_pages(tmp_path / "in.tif", texts, "float32")
    np.testing.assert_equal(nodata_of(tmp_path / "in.tif"), expected)


def test_pages_of_another_series_do_not_count(tmp_path):
    with tifffile.TiffWriter(tmp_path / "in.tif") as file:
        for size, text in ((8, "7"), (4, "9")):
            image_YX = IMAGE_YX[:, :size]
            file.write(image_YX, photometric="minisblack", metadata=None, contiguous=False, **tag(text))
    assert [nodata_of(tmp_path / "in.tif", series=series) for series in (0, 1)] == [7, 9]
