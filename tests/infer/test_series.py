"""Files with more than one stack: written page by page, with channels and time points, or with several images."""

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.volumes import open_source

GREY = {"photometric": "minisblack"}
PLAIN = {"photometric": "minisblack", "metadata": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stack.tif"


def noise(*shape):
    return np.random.default_rng(7).integers(1, 200, shape).astype(np.uint8)


def read(path, **selection):
    with open_source(path, **selection) as source:
        return np.stack([source.read(z) for z in range(source.info.sections)]), source


def append(path, image_ZYX, **options):
    for section_YX in image_ZYX:
        tifffile.imwrite(path, section_YX, append=True, **options)


def write_each(path, image_ZYX, ome=False, **options):
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        for section_YX in image_ZYX:
            tiff.write(section_YX, **options)


SLICE = "ImageJ=1.53t\nunit=nm\nmin=0.0\nmax=255.0\n"
PAGE_BY_PAGE = {
    "written in a loop": lambda path, z: write_each(path, z, **GREY),
    "compressed": lambda path, z: write_each(path, z, **GREY, compression="zlib"),
    "appended": lambda path, z: append(path, z, **GREY),
    "OME": lambda path, z: write_each(path, z, ome=True, **GREY),
    "ImageJ slices": lambda path, z: write_each(path, z, **PLAIN, description=SLICE + "images=1\n"),
}


@pytest.mark.parametrize("how", PAGE_BY_PAGE)
def test_a_stack_written_page_by_page_is_a_stack_and_said(path, how):
    image_ZYX = noise(5, 32, 40)
    PAGE_BY_PAGE[how](path, image_ZYX)
    found_ZYX, source = read(path)
    np.testing.assert_array_equal(found_ZYX, image_ZYX)
    assert source.info.shape == (5, 32, 40)
    (note,) = (note for note in source.notes if "one by one" in note)
    assert note.startswith("5 ")


def test_slices_of_imagej_that_count_nothing_are_sections(path):
    image_ZYX = noise(5, 32, 40)
    write_each(path, image_ZYX, **PLAIN, description=SLICE, resolution=(0.125, 0.125), resolutionunit=1)
    found_ZYX, source = read(path)
    np.testing.assert_array_equal(found_ZYX, image_ZYX)
    assert source.info.pixel_size.x_nm == 8


def test_a_page_by_page_stack_that_is_cut_is_refused(path):
    write_each(path, noise(5, 32, 40), **GREY)
    whole = path.read_bytes()
    for length in range(9, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read(path)


def test_two_stacks_of_one_shape_are_not_run_together(path):
    first, second = noise(3, 32, 40), noise(3, 32, 40)[::-1]
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(first, **GREY)
        tiff.write(second, **GREY)
    with pytest.raises(ImageError, match=r"2 series .*choose with --series 0 to 1"):
        read(path)
    np.testing.assert_array_equal(read(path, series=0)[0], first)
    np.testing.assert_array_equal(read(path, series=1)[0], second)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_a_series_is_chosen_beside_thumbnails(path, options):
    image_ZYX, colours = noise(3, 32, 40), np.zeros((8, 10, 3), np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(colours, photometric="rgb", metadata=None, subfiletype=1)
        tiff.write(image_ZYX, **PLAIN, **options)
        tiff.write(image_ZYX[0, ::4, ::4], **PLAIN, subfiletype=1)
    with pytest.raises(ImageError, match=r"3 series .*reduced copy, RGB"):
        read(path)
    np.testing.assert_array_equal(read(path, series=1)[0], image_ZYX)
    np.testing.assert_array_equal(read(path, series=2)[0][0], image_ZYX[0, ::4, ::4])
    with pytest.raises(ImageError, match="page 0 holds RGB; expected greyscale"):
        read(path, series=0)


def test_an_image_of_ome_is_chosen(path):
    raw, other = noise(4, 32, 40), noise(3, 16, 24)
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(raw, **GREY, metadata={"axes": "ZYX", "Name": "raw"})
        tiff.write(other, **GREY, metadata={"axes": "ZYX", "Name": "other"})
    with pytest.raises(ImageError, match=r"'raw', 'other'.*--series 0 to 1"):
        read(path)
    np.testing.assert_array_equal(read(path, series=0)[0], raw)
    np.testing.assert_array_equal(read(path, series=1)[0], other)


@pytest.mark.parametrize("series", [-1, 1])
@pytest.mark.parametrize("options", [{}, {"ome": True}])
def test_a_series_that_is_not_there_is_refused(path, series, options):
    tifffile.imwrite(path, noise(3, 32, 40), **GREY, **options)
    with pytest.raises(ImageError, match=f"has no series {series}; expected series 0 alone"):
        read(path, series=series)


FIVE = noise(2, 4, 3, 16, 24)
HYPERSTACKS = {
    "ImageJ": (FIVE, {"imagej": True, "metadata": {"axes": "TZCYX"}}),
    "ImageJ, one page": (FIVE, {"imagej": True, "truncate": True, "metadata": {"axes": "TZCYX"}}),
    "OME, channels first": (FIVE, {"ome": True, "metadata": {"axes": "TZCYX"}}),
    "OME, sections first": (np.moveaxis(FIVE, 2, 1), {"ome": True, "metadata": {"axes": "TCZYX"}}),
    "OME, time first": (np.moveaxis(FIVE, 0, 2), {"ome": True, "metadata": {"axes": "ZCTYX"}}),
    "shaped": (FIVE, {"metadata": {"axes": "TZCYX"}}),
}


@pytest.mark.parametrize("form", HYPERSTACKS)
def test_a_channel_at_a_time_is_the_right_one(path, form):
    stored, options = HYPERSTACKS[form]
    tifffile.imwrite(path, stored, photometric="minisblack", **options)
    for time in range(2):
        for channel in range(3):
            found_ZYX, source = read(path, channel=channel, time=time)
            np.testing.assert_array_equal(found_ZYX, FIVE[time, :, channel])
            assert (source.info.shape, source.info.axes) == ((4, 16, 24), "ZYX")
    for selection, says in (
        ({}, r"choose with --channel 0 to 2 and --time 0 to 1"),
        ({"channel": 1}, r"T=2, Z=4 .*choose with --time 0 to 1"),
        ({"time": 1}, r"Z=4, C=3 .*choose with --channel 0 to 2"),
        ({"channel": 3, "time": 0}, "has no channel 3; expected channel 0 to 2"),
        ({"channel": 0, "time": -1}, "has no time -1; expected time 0 to 1"),
    ):
        with pytest.raises(ImageError, match=says):
            read(path, **selection)


def test_time_points_are_a_stack_unless_one_is_chosen(path):
    image_TYX = noise(4, 16, 24)
    tifffile.imwrite(path, image_TYX, imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(read(path)[0], image_TYX)
    found_ZYX, source = read(path, time=2)
    np.testing.assert_array_equal(found_ZYX, image_TYX[2:3])
    assert source.info.axes == "YX"
    np.testing.assert_array_equal(read(path, channel=0)[0], image_TYX)


def test_another_choice_is_another_fingerprint(path):
    tifffile.imwrite(path, FIVE[0], imagej=True, metadata={"axes": "ZCYX"})
    prints = {read(path, channel=channel)[1].fingerprint() for channel in range(3)}
    assert len(prints) == 3


def test_no_part_of_a_folder_is_chosen(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(16, 24), **PLAIN)
    with pytest.raises(UsageError, match="instead of a folder"):
        open_source(tmp_path, channel=0)
