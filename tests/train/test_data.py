"""Labelled stacks: what is read, what is refused, and how they are split."""

import hashlib

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.errors import ImageError, UsageError
from isbi_train.data.labelled import LabelledStack, load_labelled, split


def test_images_are_read_as_stored_and_labels_as_cell_or_membrane(tmp_path, sample, write_labelled):
    image_ZYX, label_ZYX = sample
    stack = load_labelled(write_labelled(tmp_path, image_ZYX, label_ZYX))
    np.testing.assert_array_equal(stack.image_ZYX, image_ZYX)
    np.testing.assert_array_equal(stack.cell_ZYX, label_ZYX == 255)
    assert stack.image_ZYX.dtype == np.uint8
    assert stack.cell_ZYX.dtype == np.bool_
    assert len(stack) == 4


def test_the_pixel_size_is_taken_over_where_the_file_tells_it(tmp_path, sample, write_labelled):
    calibrated = {"imagej": True, "resolution": (250, 250), "metadata": {"unit": "um", "axes": "ZYX"}}
    assert load_labelled(write_labelled(tmp_path, *sample, **calibrated)).pixel_size_nm == pytest.approx(4)
    assert load_labelled(write_labelled(tmp_path, *sample)).pixel_size_nm is None


def test_inverted_labels_are_refused(tmp_path, sample, write_labelled):
    image_ZYX, label_ZYX = sample
    with pytest.raises(ImageError, match=r"train-labels\.tif: \d+% of the pixels are membrane.*inverted"):
        load_labelled(write_labelled(tmp_path, image_ZYX, 255 - label_ZYX))


@pytest.mark.parametrize("part", [np.s_[:3], np.s_[:, :32], np.s_[:, :, 1:]])
def test_labels_of_another_shape_are_refused_with_both_shapes(tmp_path, sample, write_labelled, part):
    image_ZYX, label_ZYX = sample
    with pytest.raises(ImageError) as raised:
        load_labelled(write_labelled(tmp_path, image_ZYX, label_ZYX[part]))
    assert str(image_ZYX.shape) in str(raised.value)
    assert str(label_ZYX[part].shape) in str(raised.value)


@pytest.mark.parametrize("missing", ["train-volume.tif", "train-labels.tif"])
def test_a_missing_file_is_named(tmp_path, sample, write_labelled, missing):
    write_labelled(tmp_path, *sample)
    (tmp_path / missing).unlink()
    with pytest.raises(ImageError, match=missing):
        load_labelled(tmp_path)


def test_a_missing_folder_is_an_image_error(tmp_path):
    with pytest.raises(ImageError, match="nowhere"):
        load_labelled(tmp_path / "nowhere")


@pytest.mark.parametrize("broken", ["train-volume.tif", "train-labels.tif"])
def test_a_truncated_file_never_gives_fewer_sections(tmp_path, sample, write_labelled, broken):
    whole = (write_labelled(tmp_path, *sample) / broken).read_bytes()
    for kept in (len(whole) * 9 // 10, len(whole) // 2, 100, 0):
        (tmp_path / broken).write_bytes(whole[:kept])
        with pytest.raises(ImageError, match=broken):
            load_labelled(tmp_path)


@given(sections=st.integers(2, 40), hold_out=st.integers(1, 39))
def test_the_last_sections_are_held_out_and_never_trained_on(sections, hold_out):
    numbers_ZYX = np.arange(sections).reshape(-1, 1, 1)
    stack = LabelledStack(numbers_ZYX, numbers_ZYX % 3 > 0, 4.0)
    if hold_out >= sections:
        with pytest.raises(UsageError):
            split(stack, hold_out)
        return
    training, held_out = split(stack, hold_out)
    assert training.image_ZYX.ravel().tolist() == list(range(sections - hold_out))
    assert held_out.image_ZYX.ravel().tolist() == list(range(sections - hold_out, sections))
    for part in (training, held_out):
        np.testing.assert_array_equal(part.cell_ZYX, part.image_ZYX % 3 > 0)
        assert part.pixel_size_nm == 4.0


@pytest.mark.parametrize("hold_out", [-1, 0, 4, 5])
def test_a_hold_out_that_leaves_nothing_on_one_side_is_refused(labelled, hold_out):
    with pytest.raises(UsageError, match=f"cannot hold out {hold_out} of 4 sections"):
        split(labelled, hold_out)


CONTAINERS = {
    "plain": {},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "bigtiff": {"bigtiff": True},
    "compressed": {"compression": "zlib", "predictor": True},
    "tiled": {"tile": (32, 32)},
    "big-endian": {"byteorder": ">"},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_data_hash_is_of_the_pixels_whatever_file_they_come_in(tmp_path, sample, container):
    image_ZYX, label_ZYX = sample
    for name, stack_ZYX in (
        ("train-volume.tif", image_ZYX.astype(np.uint16)),
        ("train-labels.tif", label_ZYX),
    ):
        tifffile.imwrite(tmp_path / name, stack_ZYX, photometric="minisblack", **CONTAINERS[container])
    assert load_labelled(tmp_path).sha256() == {
        "images": hashlib.sha256(image_ZYX.astype("<u2").tobytes()).hexdigest(),
        "labels": hashlib.sha256((label_ZYX > 0).tobytes()).hexdigest(),
    }


def test_one_changed_pixel_changes_the_hash_of_its_stack_only(labelled):
    image_ZYX, cell_ZYX = labelled.image_ZYX.copy(), labelled.cell_ZYX.copy()
    image_ZYX[2, 3, 4] ^= 1
    cell_ZYX[1, 0, 0] ^= True
    before = labelled.sha256()
    other_image = LabelledStack(image_ZYX, labelled.cell_ZYX, 4.0).sha256()
    other_label = LabelledStack(labelled.image_ZYX, cell_ZYX, 4.0).sha256()
    assert other_image["images"] != before["images"] == other_label["images"]
    assert other_label["labels"] != before["labels"] == other_image["labels"]


def test_a_stack_hashes_alike_in_any_memory_order(labelled):
    fortran = LabelledStack(np.asfortranarray(labelled.image_ZYX), np.asfortranarray(labelled.cell_ZYX), None)
    assert fortran.sha256() == labelled.sha256()
