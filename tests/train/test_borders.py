"""Membranes of one width out of ids, measured on cells whose borders are known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_train.config import TrainConfig
from isbi_train.data.borders import band, learnt_labels, membranes_of_ids, merge_enclosed
from isbi_train.data.labelled import LabelledStack


def halves(gap=0, side=64):
    """Two cells side by side, with a gap of 0 between them."""
    x = np.arange(side)
    row = np.where(x < side // 2 - gap // 2, 1, np.where(x >= side // 2 + (gap + 1) // 2, 2, 0))
    return np.broadcast_to(row, (side, side)).astype(np.uint32)


@given(width=st.floats(2, 12), gap=st.integers(0, 2))
def test_a_membrane_has_the_width_asked_whatever_gap_the_labels_leave(width, gap):
    cell_YX, ignored_YX = membranes_of_ids(halves(gap), width)
    assert not ignored_YX.any()
    assert abs((~cell_YX).sum(1) - width).max() <= 1.5


def test_wide_gaps_are_membrane_beside_cells_and_ignored_farther_off():
    cell_YX, ignored_YX = membranes_of_ids(halves(gap=30), 6.0)
    gap_YX = halves(gap=30) == 0
    assert not cell_YX[gap_YX].any()
    assert ignored_YX[32, 32]
    assert not ignored_YX[~gap_YX].any()
    beside = np.flatnonzero(gap_YX[32])[[0, -1]]
    assert not ignored_YX[32, beside].any()


def test_what_is_thinner_than_a_membrane_is_ignored_and_not_called_membrane():
    ids_YX = np.full((64, 64), 1, np.uint32)
    ids_YX[32:] = 2
    ids_YX[30:34, :] = 3  # a neurite of 4 pixels between two large cells
    cell_YX, ignored_YX = membranes_of_ids(ids_YX, 8.0)
    assert not cell_YX[30:34].any()
    assert ignored_YX[31:33].any()
    assert cell_YX[:20].all()
    assert cell_YX[44:].all()


def test_a_section_of_one_cell_is_cell_and_one_without_cells_is_ignored():
    cell_YX, ignored_YX = membranes_of_ids(np.full((16, 16), 7), 4.0)
    assert cell_YX.all()
    assert not ignored_YX.any()
    cell_YX, ignored_YX = membranes_of_ids(np.zeros((16, 16), int), 4.0)
    assert not cell_YX.any()
    assert ignored_YX.all()


@given(seed=st.integers(0, 1000), width=st.floats(1, 9))
def test_no_membrane_depends_on_how_cells_are_numbered(seed, width):
    random = np.random.default_rng(seed)
    ids_YX = random.integers(0, 4, (6, 6)).repeat(6, 0).repeat(6, 1)
    names = np.concatenate(([0], random.permutation([11, 22, 33])))
    for one, other in zip(
        membranes_of_ids(ids_YX, width), membranes_of_ids(names[ids_YX], width), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@given(width=st.floats(1, 9))
def test_a_band_lies_beside_a_membrane_on_the_side_of_the_cell(width):
    cell_YX = halves() == 1
    columns = np.flatnonzero(band(cell_YX, width)[0])
    np.testing.assert_array_equal(columns, np.arange(32 - int(width + 0.5), 32))


def tissue():
    return np.random.default_rng(0).integers(0, 256, (1, *halves().shape), np.uint8)


def test_nothing_is_learnt_where_a_section_shows_no_tissue():
    ids_ZYX, image_ZYX = np.repeat(halves()[None], 2, axis=0), np.repeat(tissue(), 2, axis=0)
    image_ZYX[0, :40] = 0
    image_ZYX[1] = 7
    learnt = learnt_labels(LabelledStack(image_ZYX, ids_ZYX > 0, None, ids_ZYX=ids_ZYX), TrainConfig())
    assert learnt.ignored_ZYX[0, :40].all()
    assert not learnt.ignored_ZYX[0, 40:].any()
    assert learnt.ignored_ZYX[1].all()
    assert not (learnt.cell_ZYX & learnt.ignored_ZYX).any()


def test_the_loss_compares_with_membranes_of_one_width_in_nanometres():
    ids_ZYX = halves()[None]
    for size_nm in (4.0, 8.0):
        stack = LabelledStack(tissue(), ids_ZYX > 0, size_nm, ids_ZYX=ids_ZYX)
        learnt = learnt_labels(stack, TrainConfig(membrane_width_nm=48.0, ignore_band_nm=16.0))
        assert (~learnt.cell_ZYX).sum(2).max() == pytest.approx(48 / size_nm, abs=1)
        assert learnt.ignored_ZYX.sum(2).max() == pytest.approx(2 * 16 / size_nm, abs=2)


def test_labels_stay_as_they_are_where_nothing_is_asked_or_no_size_is_known():
    ids_ZYX = halves()[None]
    stack = LabelledStack(tissue(), ids_ZYX > 0, 4.0, ids_ZYX=ids_ZYX)
    assert learnt_labels(stack, TrainConfig()) is stack
    unknown = replace(stack, pixel_size_nm=None)
    assert learnt_labels(unknown, TrainConfig(membrane_width_nm=40, ignore_band_nm=8)) is unknown


def volume():
    ids_ZYX = np.ones((24, 24, 24), np.uint32)
    ids_ZYX[:, :, 12:] = 2
    return ids_ZYX


def test_an_id_within_one_cell_belongs_to_it_and_what_it_encloses_too():
    ids_ZYX = volume()
    ids_ZYX[4:12, 4:12, 2:10] = 3
    ids_ZYX[6:9, 6:9, 4:7] = 4
    np.testing.assert_array_equal(merge_enclosed(ids_ZYX), volume())


def test_an_id_that_touches_two_cells_or_none_stays():
    between_ZYX, apart_ZYX = volume(), volume()
    between_ZYX[4:12, 4:12, 8:16] = 3
    np.testing.assert_array_equal(merge_enclosed(between_ZYX), between_ZYX)
    apart_ZYX[3:13, 3:13, 1:11] = 0
    apart_ZYX[5:11, 5:11, 3:9] = 3
    np.testing.assert_array_equal(merge_enclosed(apart_ZYX), apart_ZYX)
