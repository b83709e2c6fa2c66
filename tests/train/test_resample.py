"""Labelled stacks brought to another pixel size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.errors import UsageError
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.resample import resample


def stripes(side=64, width=16):
    """Bright cells between dark membranes half as wide."""
    cell_X = np.arange(side) % width >= width // 4
    cell_ZYX = np.broadcast_to(cell_X, (2, side, side)).copy()
    return LabelledStack(np.where(cell_ZYX, np.uint8(200), np.uint8(50)), cell_ZYX, 4.0)


@given(side=st.integers(8, 40), to_nm=st.floats(1, 16))
def test_the_extent_stays_within_half_a_new_pixel(side, to_nm):
    stack = LabelledStack(np.zeros((1, side, side + 3), np.uint16), np.ones((1, side, side + 3), bool), 4.0)
    found = resample(stack, to_nm)
    for before, after in zip(stack.image_ZYX.shape[1:], found.image_ZYX.shape[1:], strict=True):
        assert abs(before * 4 - after * to_nm) <= to_nm / 2 + 1e-6 or after == 1
    assert found.cell_ZYX.shape == found.image_ZYX.shape
    assert (found.image_ZYX.dtype, found.cell_ZYX.dtype, found.pixel_size_nm) == (np.uint16, bool, to_nm)


@pytest.mark.parametrize("to_nm", [1, 2, 8])
def test_image_and_labels_stay_aligned(to_nm):
    found = resample(stripes(), to_nm)
    bright = found.image_ZYX > 125
    np.testing.assert_array_equal(bright, found.cell_ZYX)
    assert found.cell_ZYX.mean() == pytest.approx(0.75, abs=0.07)


def test_finer_and_back_gives_the_same_labels():
    stack = stripes()
    np.testing.assert_array_equal(resample(resample(stack, 2), 4).cell_ZYX, stack.cell_ZYX)


def test_fine_grain_is_smoothed_away_and_not_aliased():
    checker_ZYX = np.uint8(200) * (np.indices((1, 64, 64)).sum(axis=0) % 2).astype(np.uint8)
    stack = LabelledStack(checker_ZYX, np.ones((1, 64, 64), bool), 4.0)
    small = resample(stack, 11).image_ZYX.astype(float)
    assert small.mean() == pytest.approx(100, abs=3)
    assert small[0, 2:-2, 2:-2].std() < 12


def test_the_same_size_changes_nothing():
    stack = stripes()
    assert resample(stack, 4.0) is stack


@pytest.mark.parametrize("to_nm", [0, -1, 0.1, 100, float("nan")])
def test_sizes_far_apart_are_refused(to_nm):
    with pytest.raises(UsageError, match="16 times"):
        resample(stripes(), to_nm)


def test_a_stack_without_a_pixel_size_cannot_be_resampled():
    stack = stripes()
    with pytest.raises(UsageError, match="does not say its pixel size"):
        resample(LabelledStack(stack.image_ZYX, stack.cell_ZYX, None), 4.0)
