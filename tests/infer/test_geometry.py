from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.errors import ResourceError, UsageError
from isbi_infer.plan.tiles import plan_section, read_mirrored

sizes = st.integers(1, 400)
strides = st.sampled_from([1, 4, 16])
halos = st.integers(0, 4)
borders = st.integers(0, 40)
extra = st.integers(1, 12)


def tile_side(height, width, stride, halo, extra):
    """Any valid side that cuts an axis into a dozen tiles or so at most."""
    return 2 * halo + max(extra, max(height, width) // (10 * stride)) * stride


@given(height=sizes, width=sizes, stride=strides, halo=halos, border=borders, extra=extra)
def test_every_pixel_is_owned_once_and_an_identity_model_gives_the_image_back(
    height, width, stride, halo, border, extra
):
    halo *= stride
    tile = tile_side(height, width, stride, halo, extra)
    plan = plan_section((height, width), stride=stride, halo=halo, border=border, tile=tile)
    image_YX = np.arange(height * width).reshape(height, width)
    out_YX, owners_YX = np.full_like(image_YX, -1), np.zeros_like(image_YX)
    for tile in plan.tiles:
        out_YX[tile.owns] = read_mirrored(image_YX, plan.pad, tile.reads)[tile.crop]
        owners_YX[tile.owns] += 1
    assert (owners_YX == 1).all()
    assert (out_YX == image_YX).all()


@given(height=sizes, width=sizes, stride=strides, halo=halos, border=borders, extra=extra)
def test_tiles_lie_on_the_stride_grid_in_one_shape_and_keep_halo_pixels_off_inner_sides(
    height, width, stride, halo, border, extra
):
    halo *= stride
    longest = tile_side(height, width, stride, halo, extra)
    plan = plan_section((height, width), stride=stride, halo=halo, border=border, tile=longest)
    for axis, size in enumerate((height, width)):
        padded = size + sum(plan.pad[axis])
        assert padded % stride == 0
        assert plan.pad[axis][0] == border <= plan.pad[axis][1]
        for tile in plan.tiles:
            reads, crop = tile.reads[axis], tile.crop[axis]
            assert reads.start % stride == 0
            assert reads.stop - reads.start == plan.tile_shape[axis] <= longest
            assert 0 <= reads.start < reads.stop <= padded
            assert crop.start >= halo or reads.start == 0
            assert crop.stop <= plan.tile_shape[axis] - halo or reads.stop == padded


@pytest.mark.parametrize(("count", "ideal"), [(2, 1.10), (3, 1.21)])
def test_a_4096_section_costs_what_balanced_tiles_cost(count, ideal):
    tile = -(-(4096 + 2 * 96 * (count - 1)) // count // 16) * 16
    plan = plan_section((4096, 4096), stride=16, halo=96, border=0, tile=tile + 16)
    assert len(plan.tiles) == count**2
    assert plan.overhead == pytest.approx(ideal, abs=0.01)


def test_a_section_that_fits_has_one_tile_and_no_halo():
    plan = plan_section((512, 500), stride=16, halo=96, border=0, tile=2048)
    assert plan.tile_shape == (512, 512)
    assert len(plan.tiles) == 1
    assert plan.overhead == pytest.approx(512 / 500)


def test_a_tile_off_the_stride_is_refused_with_the_nearest_that_works():
    with pytest.raises(UsageError, match="try 496"):
        plan_section((512, 512), stride=16, halo=96, border=0, tile=500)


def test_a_tile_without_room_between_its_halos_is_refused():
    with pytest.raises(UsageError, match="use 208 or more"):
        plan_section((512, 512), stride=16, halo=96, border=0, tile=192)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    before=st.integers(0, 60),
    after=st.integers(0, 60),
    start=st.integers(0, 60),
    length=st.integers(1, 60),
)
def test_a_window_of_the_padded_section_is_read_as_numpy_pads_it(height, width, before, after, start, length):
    image_YX = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    pad = ((before, after), (after, before))
    padded_YX = np.pad(image_YX, pad, mode="reflect")
    window = tuple(slice(min(start, n - 1), min(start + length, n)) for n in padded_YX.shape)
    found_YX = read_mirrored(image_YX, pad, window)
    assert found_YX.dtype == np.uint16
    assert (found_YX == padded_YX[window]).all()


def test_a_window_within_the_section_is_not_copied():
    image_YX = np.zeros((50, 60), np.uint8)
    window = (slice(8, 40), slice(16, 48))
    assert np.shares_memory(read_mirrored(image_YX, ((8, 6), (4, 0)), window), image_YX)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    halo=st.sampled_from([0, 32, 96]),
    most_pixels=st.integers(208 * 208, 1024 * 1024),
)
def test_a_memory_limit_is_kept_and_every_pixel_still_owned_once(height, width, halo, most_pixels):
    plan = plan_section((height, width), stride=16, halo=halo, border=0, most_pixels=most_pixels)
    assert plan.tile_shape[0] * plan.tile_shape[1] <= most_pixels
    owned = sum(
        (rows.stop - rows.start) * (columns.stop - columns.start)
        for rows, columns in (tile.owns for tile in plan.tiles)
    )
    assert owned == height * width


@pytest.mark.parametrize("shape", [(4096, 4096), (1000, 3000), (5000, 700), (2048, 2049)])
@pytest.mark.parametrize("most_pixels", [512 * 512, 1024 * 1024, 2144 * 2144])
def test_no_grid_of_tiles_computes_fewer_pixels(shape, most_pixels):
    plan = plan_section(shape, stride=16, halo=96, border=0, most_pixels=most_pixels)

    def side(length, count):
        return ceil(ceil((length + 192 * (count - 1)) / count) / 16) * 16

    padded = [ceil(length / 16) * 16 for length in shape]
    every = [
        rows * columns * side(padded[0], rows) * side(padded[1], columns)
        for rows in range(1, 60)
        for columns in range(1, 60)
        if side(padded[0], rows) * side(padded[1], columns) <= most_pixels
        and (rows == 1 or side(padded[0], rows) >= 208)
        and (columns == 1 or side(padded[1], columns) >= 208)
    ]
    computed = len(plan.tiles) * plan.tile_shape[0] * plan.tile_shape[1]
    assert computed == min(every)


def test_a_section_of_100000_x_100000_is_planned():
    plan = plan_section((100_000, 100_000), stride=16, halo=96, border=0, most_pixels=4096 * 4096)
    assert plan.overhead < 1.11


@pytest.mark.parametrize("most_pixels", [200 * 200, 1, 0])
@pytest.mark.parametrize("tile", [None, 208])
def test_memory_for_no_tile_at_all_is_a_resource_error(most_pixels, tile):
    with pytest.raises(ResourceError, match="208 x 208"):
        plan_section((512, 512), stride=16, halo=96, border=0, tile=tile, most_pixels=most_pixels)


@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (20_000, 20_000)])
def test_no_pixel_of_memory_is_never_taken_for_no_limit(shape):
    with pytest.raises(ResourceError, match="the memory allows 0 pixels a tile"):
        plan_section(shape, stride=16, halo=96, border=0, most_pixels=0)
    assert len(plan_section(shape, stride=16, halo=96, border=0).tiles) == 1
