"""Sections at another pixel size than the model's."""

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer import Segmenter, UsageError
from isbi_infer.pixels.resample import resample
from isbi_infer.plan.scaling import choose_scaling
from isbi_infer.volumes import open_source
from isbi_infer.volumes.pixel_size import PixelSize

SIZES = st.integers(1, 40)


@given(height=SIZES, width=SIZES, to_height=SIZES, to_width=SIZES, seed=st.integers(0, 9))
def test_values_stay_in_range_and_the_shape_is_the_wanted_one(height, width, to_height, to_width, seed):
    image_YX = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    found_YX = resample(image_YX, (to_height, to_width))
    assert (found_YX.shape, found_YX.dtype) == ((to_height, to_width), np.float32)
    assert found_YX.min() >= image_YX.min() - 1e-3
    assert found_YX.max() <= image_YX.max() + 1e-3


@given(height=SIZES, width=SIZES)
def test_the_same_shape_changes_nothing(height, width):
    image_YX = np.random.default_rng(1).standard_normal((height, width)).astype(np.float32)
    assert (resample(image_YX, (height, width)) == image_YX).all()


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.15, 2.0])
def test_a_plane_stays_a_plane_within_a_twentieth_of_a_pixel(factor):
    y, x = np.mgrid[:60, :80].astype(np.float32)
    shape = round(60 * factor), round(80 * factor)
    found_YX = resample(2 * y + 3 * x, shape)
    at_y = (np.arange(shape[0]) + 0.5) * 60 / shape[0] - 0.5
    at_x = (np.arange(shape[1]) + 0.5) * 80 / shape[1] - 0.5
    inside = np.s_[4:-4, 4:-4]
    slope = 5 * max(1, 1 / factor)
    assert np.abs(found_YX - (2 * at_y[:, None] + 3 * at_x))[inside].max() < 0.05 * slope


def test_what_cannot_be_shown_with_larger_pixels_is_averaged_and_not_aliased():
    stripes_YX = np.tile(np.float32([0, 1]), (8, 32))
    assert np.abs(resample(stripes_YX, (8, 21))[:, 2:-2] - 0.5).max() < 0.2


@pytest.mark.parametrize(
    ("model_nm", "given_nm", "found", "expected"),
    [
        (4.0, None, None, None),
        (4.0, None, PixelSize(y_nm=4.0, x_nm=4.0), None),
        (4.0, None, PixelSize(y_nm=4.02, x_nm=4.0), None),
        (4.0, None, PixelSize(y_nm=5.0, x_nm=4.0), (1.25, 1.0)),
        (4.0, 4.6, PixelSize(y_nm=4.0, x_nm=4.0), (1.15, 1.15)),
        (4.0, 4.0, PixelSize(y_nm=8.0, x_nm=8.0), None),
        (None, None, PixelSize(y_nm=8.0, x_nm=8.0), None),
    ],
)
def test_the_users_word_goes_before_the_files(model_nm, given_nm, found, expected):
    scaling, notes = choose_scaling(model_nm, given_nm, found)
    assert (scaling and (scaling.y, scaling.x)) == expected
    assert bool(notes) == (expected is not None)


def test_a_size_that_no_microscope_has_is_said_and_not_believed():
    scaling, (note,) = choose_scaling(4.0, None, PixelSize(y_nm=352778.0, x_nm=352778.0))
    assert scaling is None
    assert "352778 nm" in note


@pytest.mark.parametrize(
    ("model_nm", "given_nm"), [(4.0, 0.0), (4.0, -4.0), (4.0, float("nan")), (None, 4.0)]
)
def test_a_size_that_cannot_be_used_is_refused(model_nm, given_nm):
    with pytest.raises(UsageError):
        choose_scaling(model_nm, given_nm, None)


def test_coarser_pixels_are_found_as_membranes_again_and_tiles_stay_exact():
    (image_YX,), (label_YX,) = synthetic_stack(1, 384, 384)
    coarse_YX = np.rint(resample(image_YX, (256, 256))).astype(np.uint8)  # 6 nm
    coarse_label_YX = resample(label_YX, (256, 256)) > 127
    as_they_are = Segmenter(provider="cpu", precision="fp32")(coarse_YX)
    at_6nm_YX = Segmenter(provider="cpu", precision="fp32", pixel_size=6.0)(coarse_YX)
    assert at_6nm_YX.shape == coarse_YX.shape
    wrong, right = (((p > 0.5) != coarse_label_YX).mean() for p in (as_they_are, at_6nm_YX))
    assert right < wrong
    tiled_YX = Segmenter(provider="cpu", precision="fp32", pixel_size=6.0, tile=416)(coarse_YX)
    assert (tiled_YX == at_6nm_YX).all()


def test_the_files_own_size_is_taken_and_said(tmp_path):
    image_ZYX, _ = synthetic_stack(2, 96, 128)
    resolution = (1e3 / 6, 1e3 / 6)  # pixels per micrometre
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 0.05}
    tifffile.imwrite(tmp_path / "in.tif", image_ZYX, imagej=True, resolution=resolution, metadata=metadata)
    segmenter = Segmenter(provider="cpu")
    summary = segmenter.segment_file(tmp_path / "in.tif", tmp_path / "out.tif")
    size_nm = segmenter.contract.pixel_size_nm
    assert any(f"from 6 nm to the model's {size_nm:g} nm" in note for note in summary.notes)
    found_ZYX = tifffile.imread(tmp_path / "out.tif")
    assert found_ZYX.shape == image_ZYX.shape
    assert (found_ZYX == Segmenter(provider="cpu", pixel_size=6.0)(image_ZYX)).all()


def test_an_open_source_is_streamed_at_its_own_size(tmp_path):
    image_ZYX, _ = synthetic_stack(2, 96, 128)
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 0.05}
    tifffile.imwrite(tmp_path / "in.tif", image_ZYX, imagej=True, resolution=(160, 160), metadata=metadata)
    segmenter = Segmenter(provider="cpu")
    segmenter.segment_file(tmp_path / "in.tif", tmp_path / "out.tif", dtype="uint8")
    with open_source(tmp_path / "in.tif") as source:
        found = list(segmenter.stream_source(source, dtype="uint8"))
        np.testing.assert_array_equal(found, tifffile.imread(tmp_path / "out.tif"))
        assert (found[0] != next(segmenter.stream(image_ZYX, dtype="uint8"))).any()
