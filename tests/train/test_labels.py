"""Labels of every kind, from every kind of file, become cell or membrane, or are refused."""

import numpy as np
import pytest
import tifffile
import zarr
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from isbi_infer.errors import DependencyError, ImageError, UsageError
from isbi_train.config import TrainConfig
from isbi_train.data.labelled import load_labelled
from isbi_train.data.labels import cell_mask, instance_interiors
from isbi_train.data.sections import hold_out

ids = hnp.arrays(np.int32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 4))


@pytest.mark.parametrize("kind", ["cell", "membrane"])
@pytest.mark.parametrize("marked", [np.uint8(255), np.uint8(1), np.float32(1), np.bool_(True), np.uint16(7)])
def test_zero_and_one_other_value_mark_what_is_named(sample, kind, marked):
    _, label_ZYX = sample
    named = label_ZYX == (255 if kind == "cell" else 0)
    stored = np.where(named, marked, marked.dtype.type(0))
    np.testing.assert_array_equal(cell_mask(stored, kind), label_ZYX == 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64])
def test_cells_numbered_with_their_membranes_left_out_come_back_as_they_were(dtype):
    cell_ZYX = synthetic_stack(1, 128, 128)[1] > 0
    numbered, count = ndimage.label(cell_ZYX)
    assert count > 2
    np.testing.assert_array_equal(cell_mask(numbered.astype(dtype), "instances"), cell_ZYX)


def test_touching_instances_are_parted_by_two_pixels():
    label_ZYX = np.ones((1, 5, 8), np.uint16)
    label_ZYX[:, :, 4:] = 2
    expected_YX = np.ones((5, 8), bool)
    expected_YX[:, 3:5] = False
    np.testing.assert_array_equal(instance_interiors(label_ZYX)[0], expected_YX)


@given(ids)
def test_a_pixel_is_membrane_by_the_stated_rule_and_no_other(label_ZYX):
    positive = np.unique(label_ZYX[label_ZYX > 0])
    if len(positive) < 2:
        with pytest.raises(ImageError, match="single id"):
            instance_interiors(label_ZYX)
        return
    found = instance_interiors(label_ZYX)
    framed = np.pad(label_ZYX, ((0, 0), (1, 1), (1, 1)))
    for z, y, x in np.ndindex(label_ZYX.shape):
        here = label_ZYX[z, y, x]
        near = {framed[z, y, x + 1], framed[z, y + 2, x + 1], framed[z, y + 1, x], framed[z, y + 1, x + 2]}
        assert found[z, y, x] == (here > 0 and not near - {0, here})


@given(ids)
def test_the_numbers_of_instances_do_not_matter(label_ZYX):
    if len(np.unique(label_ZYX[label_ZYX > 0])) >= 2:
        renumbered = np.array([0, 700, 3, 12, 9])[label_ZYX]
        np.testing.assert_array_equal(instance_interiors(renumbered), instance_interiors(label_ZYX))


REFUSED = {
    "ids as cells": ([0, 1, 2, 3], "cell", "hold 0, 1, 2, 3; expected 0 and one value above it.*instances"),
    "no zero": ([1, 255], "cell", "the lowest is not 0"),
    "all cell": ([255, 255], "cell", "hold no membrane at all"),
    "all membrane": ([0, 0], "cell", "hold no cell at all"),
    "no membrane": ([0, 0], "membrane", "hold no membrane at all"),
    "inverted": ([255, 0, 0, 0, 0, 255], "cell", "67% of the pixels are membrane.*inverted"),
    "inverted membrane": ([0, 255, 255, 255, 0], "membrane", "255 = membrane.*inverted"),
    "one instance": ([0, 255], "instances", "single id 255.*cell or membrane"),
    "float ids": ([0.0, 1.0, 2.0], "instances", "float64; expected integers"),
    "boolean ids": ([True, False], "instances", "bool; expected integers"),
    "negative ids": ([-1, 1, 2], "instances", "down to -1"),
    "mostly background": ([1, 0, 0, 0, 0, 0, 0, 2], "instances", "id 0 or a border"),
    "complex": ([0j, 1j], "cell", "complex128; expected numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_are_not_of_their_kind_are_refused(case):
    values, kind, message = REFUSED[case]
    with pytest.raises(ImageError, match=message):
        cell_mask(np.array(values).reshape(1, 1, -1), kind)


def stored_as(kind, cell_ZYX):
    """Write cells as labels of a kind; ids are those of a section's components, counted on from section to section."""
    if kind != "ids":
        return np.where(cell_ZYX == (kind == "cells"), np.uint8(255), np.uint8(0))
    components = [ndimage.label(cell_YX)[0] for cell_YX in cell_ZYX]
    first = np.cumsum([0, *(found_YX.max() for found_YX in components[:-1])])
    return np.stack(
        [np.where(found_YX > 0, found_YX + add, 0) for found_YX, add in zip(components, first, strict=True)]
    ).astype(np.uint16)


@pytest.mark.parametrize("kind", ["cells", "membranes", "ids"])
def test_sections_that_nobody_annotated_are_left_out_and_named(tmp_path, kind, write_labelled):
    image_ZYX, label_ZYX = synthetic_stack(4, 64, 64)
    stored_ZYX = stored_as(kind, label_ZYX > 0)
    stored_ZYX[[1, 3]] = 0
    whole = load_labelled(write_labelled(tmp_path, image_ZYX, stored_ZYX), labels_are=kind)
    assert len(whole) == 4  # sections keep their numbers
    np.testing.assert_array_equal(whole.ignored_ZYX.all(axis=(1, 2)), [False, True, False, True])
    found = whole.annotated()
    np.testing.assert_array_equal(found.image_ZYX, image_ZYX[[0, 2]])
    np.testing.assert_array_equal(found.cell_ZYX, label_ZYX[[0, 2]] > 0)
    (note,) = (note for note in found.notes if "nobody annotated" in note)
    assert "train-labels.tif: labels hold a single value in section 1, 3 (from 0)" in note


def test_held_out_sections_are_counted_in_the_file_whatever_is_not_annotated(tmp_path, write_labelled):
    image_ZYX, label_ZYX = synthetic_stack(6, 128, 128)
    label_ZYX[[0, 4]] = 0
    stack = load_labelled(write_labelled(tmp_path, image_ZYX, label_ZYX))
    training, held_out = hold_out(stack, TrainConfig(hold_out=2, hold_out_start=4))
    np.testing.assert_array_equal(held_out.image_ZYX, image_ZYX[[5]])
    np.testing.assert_array_equal(training.image_ZYX, image_ZYX[[1, 2, 3]])
    assert training.ignored_ZYX is None  # nothing is left to be ignored
    with pytest.raises(UsageError, match="nobody annotated any of the held-out sections 4:5"):
        hold_out(stack, TrainConfig(hold_out=1, hold_out_start=4))


@pytest.mark.parametrize("kind", ["cells", "ids"])
def test_labels_that_are_padded_with_the_image_are_no_inverted_ones(tmp_path, kind, write_labelled):
    image_ZYX, label_ZYX = synthetic_stack(2, 96, 96)
    around = ((0, 0), (40, 90), (70, 30))
    stored_ZYX = np.pad(stored_as(kind, label_ZYX > 0), around)
    assert (stored_ZYX == 0).mean() > 0.6
    found = load_labelled(write_labelled(tmp_path, np.pad(image_ZYX, around), stored_ZYX), labels_are=kind)
    np.testing.assert_array_equal(found.cell_ZYX[:, 40:136, 70:166], label_ZYX > 0)


def test_a_section_of_another_constant_is_left_out_too(tmp_path, write_labelled):
    image_ZYX, label_ZYX = synthetic_stack(3, 64, 64)
    label_ZYX[1] = 128
    stack = load_labelled(write_labelled(tmp_path, image_ZYX, label_ZYX))
    np.testing.assert_array_equal(stack.annotated().image_ZYX, image_ZYX[[0, 2]])


@pytest.mark.parametrize("kind", ["cells", "membranes"])
def test_labels_of_which_nobody_annotated_any_are_refused(tmp_path, kind, write_labelled):
    image_ZYX, _ = synthetic_stack(2, 64, 64)
    labels_ZYX = np.zeros(image_ZYX.shape, np.uint8)
    labels_ZYX[1] = 255  # two values in all, but one in each section
    with pytest.raises(ImageError, match="a single value in every section, so nobody annotated them"):
        load_labelled(write_labelled(tmp_path, image_ZYX, labels_ZYX), labels_are=kind)


@pytest.mark.parametrize("kind", ["cells", "membranes", "ids"])
def test_an_ignored_value_is_neither_cell_nor_membrane(tmp_path, kind, write_labelled):
    image_ZYX, label_ZYX = synthetic_stack(2, 64, 64)
    stored_ZYX = stored_as(kind, label_ZYX > 0)
    stored_ZYX[:, 10:20, 30:50] = 77 if kind != "ids" else 60_000
    ignore = stored_ZYX[0, 10, 30]
    found = load_labelled(
        write_labelled(tmp_path, image_ZYX, stored_ZYX), labels_are=kind, ignore=float(ignore)
    )
    expected_ZYX = np.zeros(label_ZYX.shape, bool)
    expected_ZYX[:, 10:20, 30:50] = True
    np.testing.assert_array_equal(found.ignored_ZYX, expected_ZYX)
    assert not found.cell_ZYX[expected_ZYX].any()
    np.testing.assert_array_equal(found.cell_ZYX[~expected_ZYX], label_ZYX[~expected_ZYX] > 0)
    if kind == "ids":
        assert not found.ids_ZYX[expected_ZYX].any()


def test_a_value_that_is_not_named_as_ignored_is_refused_with_the_way_to_name_it():
    label_ZYX = np.array([[[0, 255, 128, 255, 255]]], np.uint8)
    with pytest.raises(ImageError, match=r"hold 0, 128, 255; .*--ignore"):
        cell_mask(label_ZYX)
    np.testing.assert_array_equal(cell_mask(label_ZYX, ignore=128)[0, 0], [False, True, False, True, True])


def test_what_is_ignored_grows_where_labels_are_resampled(tmp_path, write_labelled):
    image_ZYX, label_ZYX = synthetic_stack(2, 64, 64)
    stored_ZYX = label_ZYX.copy()
    stored_ZYX[:, 11:19, 31:49] = 7
    folder = write_labelled(tmp_path, image_ZYX, stored_ZYX)
    found = load_labelled(folder, ignore=7, pixel_size_nm=4, resample_nm=8)
    expected_ZYX = np.zeros((2, 32, 32), bool)
    expected_ZYX[:, 5:10, 15:25] = True
    assert found.ignored_ZYX[expected_ZYX].all()
    assert not found.cell_ZYX[found.ignored_ZYX].any()


@pytest.mark.parametrize("noise", [1, 8])
def test_a_grey_image_that_is_taken_for_ids_is_refused(noise):
    image_ZYX, _ = synthetic_stack(1, 64, 64)
    grey_ZYX = (image_ZYX // noise).astype(np.uint8)
    with pytest.raises(
        ImageError, match=r"change from pixel to pixel .* as grey values and interpolated masks do"
    ):
        cell_mask(grey_ZYX, "ids")


@pytest.mark.parametrize(
    "blurred",
    [
        lambda mask_YX: ndimage.gaussian_filter(mask_YX, 1),
        lambda mask_YX: ndimage.gaussian_filter(mask_YX, 3),
        lambda mask_YX: ndimage.zoom(mask_YX, 2, order=1),
    ],
    ids=["a little", "much", "by interpolation"],
)
def test_a_mask_with_soft_edges_is_not_taken_for_ids(blurred):
    """Few of its neighbours differ, but where they do they go on to, and cells are wider than a pixel."""
    _, label_ZYX = synthetic_stack(1, 96, 96)
    soft_YX = blurred(255.0 * (label_ZYX[0] > 0)).astype(np.uint8)
    with pytest.raises(ImageError, match=r"change from pixel to pixel .* interpolated masks do"):
        cell_mask(soft_YX[None], "ids")


@pytest.mark.parametrize("coarse", [1, 2, 4, 8])
def test_ids_of_coarse_sections_are_ids(coarse):
    _, label_ZYX = synthetic_stack(1, 256, 256)
    ids_YX = ndimage.label(label_ZYX[0] > 0)[0][::coarse, ::coarse]
    cell_mask(np.kron(ids_YX, np.ones((2, 2), int))[None], "ids")


@pytest.mark.parametrize(
    "damage",
    [
        lambda mask_YX: ndimage.zoom(mask_YX, 1.5, order=1),
        lambda mask_YX: np.clip(mask_YX + np.random.default_rng(0).integers(-9, 9, mask_YX.shape), 0, 255),
    ],
    ids=["interpolated", "stored as JPEG"],
)
def test_a_damaged_mask_is_refused_with_the_values_that_were_found(damage):
    _, label_ZYX = synthetic_stack(1, 64, 64)
    with pytest.raises(ImageError, match=r"labels hold [\d., ]+\.\.\. \(\d+ values\); .* back to two values"):
        cell_mask(damage(label_ZYX[0].astype(np.int16)).astype(np.uint8)[None])


def test_an_unknown_kind_is_a_usage_error():
    with pytest.raises(UsageError, match="cells, membranes, ids"):
        cell_mask(np.zeros((1, 2, 2)), "boundaries")


def tiff(path, stack_ZYX, **options):
    tifffile.imwrite(path, stack_ZYX, photometric="minisblack", **options)
    return path


def omezarr(path, stack, axes, scale, unit, version):
    """Write an OME-Zarr image as its specification says."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("s0", data=stack, chunks=(*(1,) * (stack.ndim - 2), 32, 32))
    named = [{"name": a, "type": "space", **({"unit": unit} if a in "zyx" else {})} for a in axes]
    level = {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    scales = [{"axes": named, "datasets": [level], "version": version}]
    group.attrs.update(
        {"ome": {"version": version, "multiscales": scales}} if version == "0.5" else {"multiscales": scales}
    )
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "scale", "unit", "nm"),
    [
        ("zyx", [50, 4.5, 4.5], "nanometer", 4.5),
        ("tczyx", [1, 1, 0.05, 0.008, 0.008], "micrometer", 8),
        ("czyx", [1, 9, 2, 2], "furlong", None),
    ],
)
def test_an_omezarr_stack_gives_what_its_tiff_gives(tmp_path, sample, version, axes, scale, unit, nm):
    image_ZYX, label_ZYX = sample
    leading = (1,) * (len(axes) - 3)
    images = omezarr(
        tmp_path / "images.zarr", image_ZYX.reshape(*leading, *image_ZYX.shape), axes, scale, unit, version
    )
    labels = omezarr(images / "labels" / "cells", label_ZYX, "zyx", [1, 1, 1], "nanometer", version)
    stack = load_labelled(images, labels=labels)
    np.testing.assert_array_equal(stack.image_ZYX, image_ZYX)
    np.testing.assert_array_equal(stack.cell_ZYX, label_ZYX > 0)
    assert stack.pixel_size_nm == (None if nm is None else pytest.approx(nm))
    as_tiff = load_labelled(tiff(tmp_path / "i.tif", image_ZYX), labels=tiff(tmp_path / "l.tif", label_ZYX))
    assert as_tiff.sha256() == stack.sha256()


def test_a_plain_zarr_array_of_booleans_serves_as_labels(tmp_path, sample):
    image_ZYX, label_ZYX = sample
    images = zarr.create_array(tmp_path / "i.zarr", data=image_ZYX.astype(">u2"))
    assert images.shape == image_ZYX.shape
    zarr.create_array(tmp_path / "l.zarr", data=label_ZYX == 0)
    stack = load_labelled(tmp_path / "i.zarr", labels=tmp_path / "l.zarr", labels_are="membrane")
    np.testing.assert_array_equal(stack.cell_ZYX, label_ZYX > 0)
    assert stack.image_ZYX.dtype.isnative


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "s0" / "zarr.json").write_text("{"), "level s0 cannot be opened"),
        (lambda p: (p / "s0" / "c" / "0" / "0" / "0").write_bytes(b"x"), "section 0 cannot be read"),
        (lambda p: zarr.open_group(p).attrs.put({}), "no multiscales"),
        (lambda p: omezarr(p, np.zeros((2, 1, 8, 8)), "czyx", [1] * 4, "nm", "0.5"), "axes czyx of sizes"),
        (lambda p: omezarr(p, np.zeros((2, 8, 8)), "cyx", [1] * 3, "nm", "0.5"), "axes cyx of sizes"),
        (lambda p: omezarr(p, np.full((1, 8, 8), np.nan), "zyx", [1] * 3, "nm", "0.5"), "64 NaN"),
        (
            lambda p: omezarr(p, np.zeros((1, 8, 8)), "yx", [1] * 2, "nm", "0.5"),
            "3 dimensions and axes for 2",
        ),
    ],
)
def test_a_zarr_that_is_no_whole_volume_is_refused_by_name(tmp_path, sample, damage, message):
    path = omezarr(tmp_path / "images.zarr", sample[0], "zyx", [50, 4, 4], "nanometer", "0.5")
    damage(path)
    with pytest.raises(ImageError, match=rf"images\.zarr: .*{message}"):
        load_labelled(path, labels=path)


def test_without_tensorstore_the_extra_is_named(tmp_path, sample, monkeypatch):
    path = omezarr(tmp_path / "images.zarr", sample[0], "zyx", [50, 4, 4], "nanometer", "0.5")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install 'isbi-infer\[volume\]'"):
        load_labelled(path, labels=path)


def test_a_stack_and_labels_of_any_name_are_read(tmp_path, sample):
    image_ZYX, label_ZYX = sample
    images, labels = tiff(tmp_path / "em.tif", image_ZYX), tiff(tmp_path / "drawn.tif", 255 - label_ZYX)
    stack = load_labelled(images, labels=labels, labels_are="membrane", pixel_size_nm=4.6)
    np.testing.assert_array_equal(stack.cell_ZYX, label_ZYX > 0)
    assert stack.pixel_size_nm == 4.6


def test_labels_beside_a_folder_are_taken_instead_of_its_own(tmp_path, sample, write_labelled):
    image_ZYX, label_ZYX = sample
    folder = write_labelled(tmp_path, image_ZYX, np.zeros_like(label_ZYX))
    with pytest.raises(ImageError, match=r"train-labels\.tif: labels hold no cell"):
        load_labelled(folder)
    assert load_labelled(folder, labels=tiff(tmp_path / "l.tif", label_ZYX)).cell_ZYX.any()


def test_a_stack_without_labels_says_what_to_add(tmp_path, sample):
    with pytest.raises(UsageError, match="--labels"):
        load_labelled(tiff(tmp_path / "em.tif", sample[0]))


def test_the_given_pixel_size_goes_before_that_of_the_file(tmp_path, sample, write_labelled):
    calibrated = {"imagej": True, "resolution": (250, 200), "metadata": {"unit": "um", "axes": "ZYX"}}
    folder = write_labelled(tmp_path, *sample, **calibrated)
    with pytest.raises(ImageError, match=r"train-volume\.tif: pixels of 5 x 4 nm; expected square"):
        load_labelled(folder)
    assert load_labelled(folder, pixel_size_nm=4.5).pixel_size_nm == 4.5


@pytest.mark.parametrize("size", [0, -4, float("nan"), float("inf")])
def test_a_pixel_size_that_cannot_be_meant_is_refused(tmp_path, size):
    with pytest.raises(UsageError, match="is invalid"):
        load_labelled(tmp_path, pixel_size_nm=size)
