"""Labelled stacks brought to another pixel size: images as inference sees them, labels by the stated rules."""

import numpy as np
import pytest
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from isbi_infer import Segmenter
from isbi_infer.errors import ImageError, UsageError
from isbi_infer.pixels.normalise import intensity_statistics
from isbi_infer.run.section import SectionInWork, measure
from isbi_train.data.labelled import load_labelled
from isbi_train.data.labels import instance_interiors
from isbi_train.data.resample import resample_cells, resample_ids, resample_images, resampled_shape

SIZES = st.integers(1, 48)
SHAPES = st.tuples(SIZES, SIZES)


def stripes(side=64, width=16):
    """Bright cells between dark membranes a quarter as wide, and the labels of both."""
    cell_ZYX = np.broadcast_to(np.arange(side) % width >= width // 4, (2, side, side)).copy()
    return np.where(cell_ZYX, np.uint8(200), np.uint8(50)), cell_ZYX


def noise(shape, seed, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 200, (1, *shape)).astype(dtype)


@pytest.fixture(scope="module")
def plan_of():
    """Give the plan of inference for a section of some shape and pixel size."""
    from isbi_models import default_model

    def plan(shape, pixel_size_nm):
        return Segmenter(default_model().path, provider="cpu", pixel_size=pixel_size_nm).plan(shape)

    return plan


@pytest.fixture(scope="module")
def trained_at_nm():
    """The pixel size of the model of that plan."""
    from isbi_models import default_model

    return Segmenter(default_model().path, provider="cpu").contract.pixel_size_nm


@settings(max_examples=settings().max_examples // 2)
@given(
    shape=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    from_nm=st.floats(1.5, 12),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
    seed=st.integers(0, 99),
)
def test_training_sees_what_inference_sees_bit_for_bit(plan_of, trained_at_nm, shape, from_nm, dtype, seed):
    image_ZYX = noise(shape, seed, dtype)
    plan = plan_of(shape, from_nm)
    (view,) = SectionInWork([measure(image_ZYX[0], plan)], plan).views
    to_shape = resampled_shape(shape, from_nm, trained_at_nm)
    (trained_on_YX,) = image_ZYX if to_shape is None else resample_images(image_ZYX, to_shape)
    np.testing.assert_array_equal(trained_on_YX, view.sections[0])
    assert trained_on_YX.dtype == view.sections[0].dtype
    found = intensity_statistics(trained_on_YX)
    assert (found.mean, found.inverse_std) == (view.statistics[0].mean, view.statistics[0].inverse_std)


@given(shape=SHAPES, seed=st.integers(0, 9))
def test_the_same_size_changes_neither_image_nor_labels(shape, seed):
    image_ZYX = noise(shape, seed)
    np.testing.assert_array_equal(resample_images(image_ZYX, shape), image_ZYX)
    label_ZYX = (image_ZYX > 60).astype(np.uint8)
    assume(0.5 <= label_ZYX.mean() < 1)
    np.testing.assert_array_equal(resample_cells(label_ZYX > 0, shape), label_ZYX > 0)


@given(shape=SHAPES, to=SHAPES, value=st.integers(0, 2**16 - 1))
def test_a_constant_section_stays_constant(shape, to, value):
    found_ZYX = resample_images(np.full((1, *shape), value, np.uint16), to)
    np.testing.assert_allclose(found_ZYX, value, rtol=2e-6)


@given(shape=SHAPES, to_nm=st.floats(0.5, 32))
def test_the_extent_stays_within_half_a_new_pixel(shape, to_nm):
    found = resampled_shape(shape, 4.0, to_nm)
    if found is None:
        assert abs(4.0 / to_nm - 1) <= 0.01
        return
    for before, after in zip(shape, found, strict=True):
        assert abs(before * 4 - after * to_nm) <= to_nm / 2 + 1e-6 or after == 1


@pytest.mark.parametrize("to_nm", [1, 2, 8])
def test_image_and_labels_stay_aligned(to_nm):
    image_ZYX, cell_ZYX = stripes()
    shape = resampled_shape((64, 64), 4.0, to_nm)
    bright = resample_images(image_ZYX, shape) > 125
    np.testing.assert_array_equal(bright, resample_cells(cell_ZYX > 0, shape))
    assert bright.mean() == pytest.approx(0.75, abs=0.07)


def test_a_pixel_is_cell_where_more_than_half_of_it_is():
    # Along x the new pixels average these with 1/8, 3/8, 3/8, 1/8, the edge pixels going on outside.
    label_ZYX = np.array([[[1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]] * 2], np.uint8)
    found_ZYX = resample_cells(label_ZYX > 0, (1, 6))
    # Shares of 1, 5/8, 1/2, 1/8, 7/8 and 1; the tie is membrane.
    np.testing.assert_array_equal(found_ZYX, [[[True, True, False, False, True, True]]])


def test_finer_and_back_gives_the_same_labels():
    _, cell_ZYX = stripes()
    finer_ZYX = resample_cells(cell_ZYX > 0, (128, 128))
    np.testing.assert_array_equal(resample_cells(finer_ZYX > 0, (64, 64)), cell_ZYX)


@given(
    side=st.integers(24, 64),
    to=st.integers(12, 90),
    at=st.floats(0.3, 0.7),
    gap=st.integers(0, 1),
)
def test_cells_that_touch_stay_two_cells_at_any_pixel_size(side, to, at, gap):
    label_ZYX = np.ones((1, side, side), np.uint16)
    wall = int(at * side)
    label_ZYX[:, :, wall:] = 2
    label_ZYX[:, :, wall : wall + gap] = 0
    cell_ZYX = instance_interiors(resample_ids(label_ZYX, (to, to)))
    assert ndimage.label(cell_ZYX[0])[1] == 2
    assert abs(cell_ZYX[0, 0].argmin() - wall * to / side) <= 2 + to / side  # where the wall was


@given(shape=SHAPES, seed=st.integers(0, 9))
def test_instances_at_the_same_size_are_those_of_the_file(shape, seed):
    label_ZYX = np.zeros((1, *shape), np.int32)
    label_ZYX[:, : shape[0] // 2] = 1
    label_ZYX[:, shape[0] // 2 :] = 2
    assume(shape[0] > 8)
    found_ZYX = instance_interiors(resample_ids(label_ZYX, shape))
    assert not found_ZYX[:, shape[0] // 2 - 1 : shape[0] // 2 + 1].any()
    assert found_ZYX.sum() == found_ZYX.size - 2 * shape[1]


def test_fine_grain_is_smoothed_away_and_not_aliased():
    checker_ZYX = np.uint8(200) * (np.indices((1, 64, 64)).sum(axis=0) % 2).astype(np.uint8)
    small_ZYX = resample_images(checker_ZYX, (23, 23))
    assert small_ZYX.mean() == pytest.approx(100, abs=3)
    assert small_ZYX[0, 2:-2, 2:-2].std() < 12


@pytest.mark.parametrize("to_nm", [4.0, 4.03])
def test_sizes_that_inference_takes_for_the_same_change_nothing(tmp_path, write_labelled, sample, to_nm):
    folder = write_labelled(tmp_path, *sample)
    stack = load_labelled(folder, pixel_size_nm=4.0, resample_nm=to_nm)
    np.testing.assert_array_equal(stack.image_ZYX, sample[0])
    assert (stack.image_ZYX.dtype, stack.pixel_size_nm) == (np.uint8, 4.0)


@pytest.mark.parametrize("to_nm", [0, -1, 0.1, 100, float("nan")])
def test_sizes_far_apart_are_refused(to_nm):
    with pytest.raises(UsageError, match="16 times"):
        resampled_shape((64, 64), 4.0, to_nm)


def test_a_stack_without_a_pixel_size_cannot_be_resampled(tmp_path, write_labelled, sample):
    folder = write_labelled(tmp_path, *sample)
    with pytest.raises(UsageError, match="does not say its pixel size"):
        load_labelled(folder, resample_nm=8.0)


def test_membranes_that_are_lost_altogether_are_an_error_that_names_the_file(tmp_path, write_labelled):
    label_ZYX = np.full((1, 64, 64), 255, np.uint8)
    label_ZYX[:, :, ::16] = 0
    folder = write_labelled(tmp_path, label_ZYX, label_ZYX)
    with pytest.raises(ImageError, match=r"train-labels\.tif, resampled to 32 nm: .*no membrane at all"):
        load_labelled(folder, pixel_size_nm=4.0, resample_nm=32.0)


def test_instances_of_a_file_keep_their_membranes_when_they_are_resampled(tmp_path, sample):
    label_ZYX = np.ones((4, 64, 64), np.uint16)
    label_ZYX[:, 20:40], label_ZYX[:, 40:] = 2, 3
    for name, array in (("image.tif", sample[0]), ("labels.tif", label_ZYX)):
        tifffile.imwrite(tmp_path / name, array, photometric="minisblack")
    files = {"labels": tmp_path / "labels.tif", "labels_are": "instances"}
    stack = load_labelled(tmp_path / "image.tif", **files, pixel_size_nm=4.0, resample_nm=16.0)
    assert stack.image_ZYX.shape == stack.cell_ZYX.shape == (4, 16, 16)
    assert ndimage.label(stack.cell_ZYX[0])[1] == 3
