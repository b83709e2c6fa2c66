"""Sound files whose pixels are no greyscale sections: colours, more axes, bits, NaN."""

import numpy as np
import pytest
import tifffile

from isbi_infer.volumes import open_stack

GREY = {"photometric": "minisblack", "metadata": None}


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
def test_samples_colours_and_slices_of_a_page_are_never_sections(path, refused, shape, options):
    tifffile.imwrite(path, np.zeros(shape, "uint8"), **options)
    refused(path, "expected greyscale")


def test_min_is_white_floats_are_refused(path, refused, stack):
    tifffile.imwrite(path, stack(dtype="float32"), **{**GREY, "photometric": "miniswhite"})
    refused(path, "min-is-white")


@pytest.mark.parametrize("dtype", ["bool", "complex64", "complex128"])
def test_bits_and_complex_numbers_are_refused(path, refused, dtype):
    tifffile.imwrite(path, np.zeros((3, 32, 32), dtype), **GREY)
    refused(path, "complex numbers" if dtype.startswith("complex") else "1-bit")


def test_packed_bits_are_refused(path, refused, stack, patch):
    tifffile.imwrite(path, stack(dtype="uint16"), **GREY)
    for page in range(3):
        patch(path, "BitsPerSample", 12, page)
    refused(path, "12-bit")


@pytest.mark.parametrize(("bad", "nan", "infinite"), [(np.nan, 3, 0), (np.inf, 0, 3), (-np.inf, 0, 3)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "byteorder": ">"}])
def test_nan_and_infinite_pixels_are_counted_in_the_section_that_has_them(
    path, refused, stack, bad, nan, infinite, dtype, options
):
    stack_ZYX = stack(5, dtype=dtype)
    stack_ZYX[2, :3, 7] = bad
    tifffile.imwrite(path, stack_ZYX, **GREY, **options)
    with open_stack(path) as reader:
        np.testing.assert_array_equal(reader.read(1), stack_ZYX[1])
    refused(path, f"section 2: {nan} NaN and {infinite} infinite pixels")


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
def test_more_axes_than_a_stack_are_refused_by_name(path, refused, axes, shape, options, says):
    tifffile.imwrite(
        path, np.zeros(shape, "uint8"), **options, photometric="minisblack", metadata={"axes": axes}
    )
    refused(path, says)
